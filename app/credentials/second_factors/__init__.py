"""Codes from an authenticator app (RFC 6238) beside the password, and recovery codes for the day
the phone is lost.

Knows users. What a login does with the answer is decided above.
"""
