"""Logins, second factors and sessions."""
