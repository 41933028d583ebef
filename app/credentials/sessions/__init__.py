"""Sessions: a refresh token gets the next access token without the password.

A login creates one only on request (scope `offline_access`).
"""
