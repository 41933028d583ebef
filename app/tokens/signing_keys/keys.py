"""Signing keys as values: no database, no FastAPI, and the time is an argument."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from jose import jwk, jws
from jose.backends.base import Key
from jose.utils import base64url_encode
from pydantic_core import to_json

# Clocks of hosts differ a little, and workers read new keys with a delay (key_refresher.py).
CLOCK_SKEW = timedelta(minutes=1)


@dataclass(frozen=True)
class SigningKey:
    """A key, its only algorithm, and the JOSE header of the tokens that it signs."""

    kid: str
    algorithm: str
    private: Key
    public: Key
    activates_at: datetime

    @cached_property
    def header_segment(self) -> str:
        headers = {"kid": self.kid, "typ": "at+jwt"}  # RFC 9068, 2.1
        token: str = jws.sign({}, self.private, headers, self.algorithm)
        return token.partition(".")[0]

    def sign(self, claims: dict[str, object]) -> str:
        """Like jws.sign(), but does not encode the same header each time."""
        payload = base64url_encode(to_json(claims))
        signed = self.header_segment.encode() + b"." + payload
        token: bytes = signed + b"." + base64url_encode(self.private.sign(signed))
        return token.decode()

    def public_jwk(self) -> dict[str, str]:
        """RFC 7517, 4."""
        return {**self.public.to_dict(), "kid": self.kid, "use": "sig"}


class Keyring:
    """All keys that verify tokens. They are looked up by the first segment of a token, which must
    be exactly what the service writes. No other header is parsed."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.keys = tuple(keys)  # oldest first
        self.by_header = {key.header_segment: key for key in keys}

    def current(self, now: datetime) -> SigningKey:
        """The newest active key."""
        return next((key for key in reversed(self.keys) if key.activates_at <= now), self.keys[0])

    def public_jwks(self) -> list[dict[str, str]]:
        """RFC 7517, 5. Without HS256 keys, which have no public part."""
        return [key.public_jwk() for key in self.keys if key.algorithm != "HS256"]


def shared_secret_key(secret: str) -> SigningKey:
    key = jwk.construct(secret, "HS256")
    # Tokens contain the kid, so it must not reveal the secret.
    kid = hashlib.sha256(b"hourpass kid" + secret.encode()).hexdigest()[:16]
    return SigningKey(kid, "HS256", key, key, datetime.min.replace(tzinfo=UTC))
