"""Tokens, signing keys and revocations."""
