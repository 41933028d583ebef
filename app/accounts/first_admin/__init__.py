"""The first administrator, created from the settings once in the life of a database."""
