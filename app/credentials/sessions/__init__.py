"""Sessions that outlive a token: a refresh token is traded for the next access token.

Only for those who ask (scope offline_access). Knows users; logging in stands above it.
"""
