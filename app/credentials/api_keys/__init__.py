"""API keys: long-lived credentials of programs, exchanged for access tokens."""
