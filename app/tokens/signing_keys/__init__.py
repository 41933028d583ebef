"""Signing keys: generates, stores, rotates and revokes them."""
