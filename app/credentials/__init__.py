"""Credentials besides the password: second factors, and sessions with refresh tokens."""
