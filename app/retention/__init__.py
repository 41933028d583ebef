"""Deletes data that is no longer needed."""
