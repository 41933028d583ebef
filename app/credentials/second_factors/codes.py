"""Codes of RFC 6238 (TOTP). Pure: no database, and the time is an argument.

A code is accepted in its own 30 seconds and in the 30 seconds before and after, since the clocks of
phones differ (RFC 6238, 5.2).
"""

import base64
import hmac
import re
import secrets
from datetime import datetime
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

# The parameters that every authenticator app supports. SHA-1 is still secure in HMAC.
DIGITS = 6
STEP_SECONDS = 30
_SHA1 = SHA1()  # noqa: S303 - RFC 6238 needs it, and in HMAC it is secure

DRIFT = 1

_URL = re.compile(
    r"((?P<scheme>[a-z][a-z0-9+.-]*)?://)?([^/@]*@)?"
    r"(?P<host>\[[^]/]*\]|[^/:]*)(:(?P<port>\d+))?(?P<path>/.*)?",
    re.IGNORECASE | re.DOTALL,
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def new_secret() -> str:
    """160 bits (RFC 4226, 4, R6) in base32."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def uri(secret: str, username: str, service: str) -> str:
    """The otpauth URI for a QR code, in the Key URI format of Google Authenticator.

    A colon would end the name of the service in the label. All else is percent-encoded, since apps
    show a plus sign as it is (RFC 3986), and some read the path only from its last slash.
    """
    issuer, account = (quote(_without_colons(name), safe="") for name in (service, username))
    parameters = {
        "secret": secret,
        "issuer": _without_colons(service),
        "algorithm": _SHA1.name.upper(),
        "digits": DIGITS,
        "period": STEP_SECONDS,
    }
    return f"otpauth://totp/{issuer}:{account}?{urlencode(parameters, quote_via=quote, safe='')}"


def service_label(issuer: str) -> str:
    """The host, the path and the port of the issuer's URL, so that two services on one host have
    different names. An authenticator app may overwrite an account with the same name."""
    url = _URL.fullmatch(issuer)
    if url is None:
        return issuer
    host, path = url["host"].strip("[]"), (url["path"] or "").rstrip("/")
    default_port = _DEFAULT_PORTS.get((url["scheme"] or "").lower())
    port = "" if url["port"] in (None, default_port) else f" (port {url['port']})"
    return f"{host}{path}{port}" or "Hourpass"


def _without_colons(name: str) -> str:
    return name.replace(":", "-")


def matching_step(secret: str, code: str, now: datetime) -> int:
    """The newest time step around now that has this code, or 0.

    `code` has ASCII digits. All steps are compared, each in constant time.
    """
    hotp = HOTP(base64.b32decode(secret), DIGITS, _SHA1)
    current = int(now.timestamp()) // STEP_SECONDS
    steps = range(current - DRIFT, current + DRIFT + 1)
    matching = [step for step in steps if hmac.compare_digest(hotp.generate(step), code.encode())]
    return max(matching, default=0)
