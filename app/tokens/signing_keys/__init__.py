"""Signing keys: generated, stored, rotated, revoked."""
