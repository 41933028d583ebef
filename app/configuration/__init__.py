"""How settings are read and checked. app/settings.py says which ones there are."""
