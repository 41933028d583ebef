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

# Hosts' clocks differ a little, and a worker hears of new keys a moment late (live.py).
CLOCK_SKEW = timedelta(minutes=1)


@dataclass(frozen=True)
class SigningKey:
    """A key, the one algorithm it is for, and the JOSE header of every token that it signs."""

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
        """As jws.sign, which would write the same header anew each time."""
        payload = base64url_encode(to_json(claims))
        signed = self.header_segment.encode() + b"." + payload
        token: bytes = signed + b"." + base64url_encode(self.private.sign(signed))
        return token.decode()

    def public_jwk(self) -> dict[str, str]:
        """RFC 7517, 4."""
        return {**self.public.to_dict(), "kid": self.kid, "use": "sig"}


class Keyring:
    """Every key that verifies. One is found by the first segment of a token, which must be to the
    letter what the service itself would write: no other header is ever parsed."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.keys = tuple(keys)  # oldest first
        self.by_header = {key.header_segment: key for key in keys}

    def current(self, now: datetime) -> SigningKey:
        """The newest key that signs already."""
        return next((key for key in reversed(self.keys) if key.activates_at <= now), self.keys[0])

    def public_jwks(self) -> list[dict[str, str]]:
        """RFC 7517, 5. A shared secret has no public half, so there is nothing to show for it."""
        return [key.public_jwk() for key in self.keys if key.algorithm != "HS256"]


def _shared_secret(secret: str) -> SigningKey:
    key = jwk.construct(secret, "HS256")
    # Every token shows its kid, so it is a digest that nobody can turn back.
    kid = hashlib.sha256(b"hourpass kid" + secret.encode()).hexdigest()[:16]
    return SigningKey(kid, "HS256", key, key, datetime.min.replace(tzinfo=UTC))
