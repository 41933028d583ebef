"""Codes of RFC 6238, pure: no database, and the time is an argument.

A code is good for its own half minute and for one more on either side, since phones' clocks differ
(RFC 6238, 5.2).
"""

import base64
import hmac
import re
import secrets
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from cryptography.hazmat.primitives.twofactor.totp import TOTP

# What every authenticator app understands. HMAC asks no more of a hash than SHA-1 still gives.
DIGITS = 6
STEP_SECONDS = 30
_SHA1 = SHA1()  # noqa: S303 - see above

DRIFT = 1


def new_secret() -> str:
    """160 bits (RFC 4226, 4, R6) in base32."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def uri(secret: str, username: str, issuer: str) -> str:
    """What authenticator apps read from a QR code. They show the host of the issuer's URL, since in
    a label a colon ends the issuer's name."""
    host = re.sub("^[A-Za-z]+://|[/:].*", "", issuer) or "Hourpass"
    totp = TOTP(base64.b32decode(secret), DIGITS, _SHA1, STEP_SECONDS)
    return totp.get_provisioning_uri(username, host)


def matching_step(secret: str, code: str, now: datetime) -> int:
    """The newest of the steps around now whose code this is; 0 if there is none.

    `code` has ASCII digits. All steps are compared, each in constant time.
    """
    hotp = HOTP(base64.b32decode(secret), DIGITS, _SHA1)
    current = int(now.timestamp()) // STEP_SECONDS
    steps = range(current - DRIFT, current + DRIFT + 1)
    matching = [step for step in steps if hmac.compare_digest(hotp.generate(step), code.encode())]
    return max(matching, default=0)
