"""Revocations: the service checks them at every request, and publishes them as a feed for APIs that
verify tokens themselves. Does not know users or sessions, only values like `jti:…`.
"""
