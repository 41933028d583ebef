"""Codes of RFC 6238 (TOTP). Pure: no database, and the time is an argument.

A code is accepted in its own 30 seconds and in the 30 seconds before and after, since the clocks of
phones differ (RFC 6238, 5.2).
"""

import base64
import hmac
import re
import secrets
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from cryptography.hazmat.primitives.twofactor.totp import TOTP

# The parameters that every authenticator app supports. SHA-1 is still secure in HMAC.
DIGITS = 6
STEP_SECONDS = 30
_SHA1 = SHA1()  # noqa: S303 - RFC 6238 needs it, and in HMAC it is secure

DRIFT = 1


def new_secret() -> str:
    """160 bits (RFC 4226, 4, R6) in base32."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def uri(secret: str, username: str, issuer: str) -> str:
    """The otpauth URI for a QR code. Authenticator apps show only the host of the issuer's URL,
    since a colon would end the issuer's name in the label."""
    host = re.sub("^[A-Za-z]+://|[/:].*", "", issuer) or "Hourpass"
    totp = TOTP(base64.b32decode(secret), DIGITS, _SHA1, STEP_SECONDS)
    return totp.get_provisioning_uri(username, host)


def matching_step(secret: str, code: str, now: datetime) -> int:
    """The newest time step around now that has this code, or 0.

    `code` has ASCII digits. All steps are compared, each in constant time.
    """
    hotp = HOTP(base64.b32decode(secret), DIGITS, _SHA1)
    current = int(now.timestamp()) // STEP_SECONDS
    steps = range(current - DRIFT, current + DRIFT + 1)
    matching = [step for step in steps if hmac.compare_digest(hotp.generate(step), code.encode())]
    return max(matching, default=0)
