"""Checks of a token: whether it is valid, and whose it is."""
