"""Issuing and reading tokens: pure, so no database, no FastAPI, and the time is an argument.

python-jose signs and verifies; everything around that is checked here first, because the library
lets too much through (altered base64, `crit`, missing claims) and trips over what it should refuse.
"""

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.keys import Keyring, SigningKey

MAX_TOKEN_BYTES = 4_096

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, once its signature and its times have been checked (RFC 9068, 2.2)."""

    subject: str
    epoch: int
    jti: str
    issued_at: int
    expires_at: int


class Tokens:
    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self.lifetime = timedelta(minutes=settings.token_minutes)
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._keyring = keyring

    def issue(self, subject: str, epoch: int, now: datetime) -> str:
        """A signed token for the subject, good for `lifetime` from `now`.

        `epoch` is whatever the subject's keeper compares to end all of its tokens at once.
        """
        issued_at = int(now.timestamp())
        return self._keyring.current.sign(
            {
                "iss": self._issuer,
                "aud": self._audience,
                "sub": subject,
                "jti": secrets.token_urlsafe(16),
                "iat": issued_at,
                "exp": issued_at + int(self.lifetime.total_seconds()),
                "epoch": epoch,
            }
        )

    def read(self, token: str, now: datetime) -> Claims:
        """What the token says. Raises InvalidTokenError unless every part of it is in order."""
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidTokenError
        header, _, rest = token.partition(".")
        key = self._keyring.by_header.get(header)
        payload, _, signature = rest.partition(".")
        if key is None or not _verifies(key, f"{header}.{payload}", signature):
            raise InvalidTokenError
        claims = _parse(payload)
        if (
            claims.get("iss") != self._issuer
            or claims.get("aud") != self._audience
            or not isinstance(subject := claims.get("sub"), str)
            or not isinstance(jti := claims.get("jti"), str)
            or type(epoch := claims.get("epoch")) is not int
            or not 0 <= epoch < 2**31
            or type(issued_at := claims.get("iat")) is not int
            or type(expires_at := claims.get("exp")) is not int
            or not now.timestamp() < expires_at
        ):
            raise InvalidTokenError
        return Claims(subject, epoch, jti, issued_at, expires_at)


def _verifies(key: SigningKey, signed: str, signature: str) -> bool:
    verified: bool = key.public.verify(signed.encode(), _decode(signature))
    return verified


def _parse(payload: str) -> dict[str, Any]:
    """Only reached for what one of our keys signed, yet an HS256 secret is shared with others."""
    try:
        claims = json.loads(_decode(payload), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise InvalidTokenError from None
    if not isinstance(claims, dict):
        raise InvalidTokenError
    return claims


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _decode(segment: str) -> bytes:
    """base64url without padding (RFC 7515, 2), in the one spelling that encodes its bytes: spare
    bits or stray characters would make many texts out of one token."""
    if not _SEGMENT.fullmatch(segment):
        raise InvalidTokenError
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise InvalidTokenError from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode():
        raise InvalidTokenError
    return decoded
