"""Checks of a token."""
