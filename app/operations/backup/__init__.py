"""Backs up the database while the service runs, and restores it."""
