"""Imports the users of other systems, with their password hashes."""
