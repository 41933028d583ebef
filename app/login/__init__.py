"""Logs users in and issues access tokens: POST /token."""
