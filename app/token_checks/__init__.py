"""Token checks: whether a token is valid, and which user it belongs to."""
