"""The first administrator, created from the settings, once per database."""
