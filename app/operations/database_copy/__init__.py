"""Copies everything to another database, such as from SQLite to PostgreSQL."""
