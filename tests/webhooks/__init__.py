"""Webhooks: their management, and the messages that receivers get."""
