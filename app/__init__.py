"""Hourpass: user accounts and 60-minute tokens for machine-learning APIs. Start at main.py."""

__version__ = "0.1.0"
