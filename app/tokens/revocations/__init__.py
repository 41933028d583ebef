"""Tokens that were revoked before they expire: checked on every request here, and published as a
feed for APIs that verify tokens themselves. Knows no users or sessions, only values like `jti:…`.
"""
