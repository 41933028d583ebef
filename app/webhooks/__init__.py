"""Webhooks: operations queue messages about events, and any worker sends them to endpoints."""
