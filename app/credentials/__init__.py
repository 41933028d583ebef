"""Credentials besides the password: second factors, sessions with refresh tokens, and API keys."""
