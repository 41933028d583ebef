"""Verifies a token's signature and claims, and reads them. Makes no requests.

It is as strict as the service: a token has exactly one encoding, and a claim of another type, or a
header that the service would not write, makes it invalid.
"""

import base64
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, NamedTuple

import jwt

from hourpass.errors import InvalidTokenError
from hourpass.guard.invalid_tokens import invalid_token
from hourpass.guard.networks import IPNetwork
from hourpass.user import User

MAX_TOKEN_BYTES = 4_096  # the service issues none that is longer
MAX_KID_LENGTH = 200  # characters; the service's have 43 at most
# For a clock that is behind the service's: `iat` and `nbf` may be this far in the future. `exp` is
# exact.
CLOCK_SKEW_SECONDS = 60
MAX_LIFETIME_SECONDS = 86_400  # TOKEN_MINUTES allows a day

_ALGORITHMS = ("ES256", "RS256")
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_USER_ID = re.compile(r"[1-9][0-9]{0,18}")
_MAX_USER_ID = 2**63 - 1  # of the service's database
_NO_KEY = "hourpass"  # the `client_id` of a token that does not come from an API key


class Verified(NamedTuple):
    user: User
    expires_at: float
    revocable: tuple[str, ...]  # the feed ends the token by listing one of these
    networks: tuple[IPNetwork, ...] = ()  # from which the token works; none: from everywhere
    issued_at: float = 0

    @property
    def renew_at(self) -> float:
        """When the last fifth of its life begins, in which the token of an API key is renewed."""
        return self.expires_at - (self.expires_at - self.issued_at) / 5


class UnknownKeyError(InvalidTokenError):
    """The guard has no key with this `kid`, or no key at all; the service may have one. `claimed`
    holds the token's unverified claims."""

    def __init__(self, kid: str, claimed: Verified) -> None:
        super().__init__()
        self.kid = kid
        self.claimed = claimed


class TokenVerifier:
    """Verifies tokens of one issuer for one audience with one key set."""

    def __init__(self, issuer: str, audience: str, jwks: Iterable[dict[str, Any]]) -> None:
        self.issuer = issuer
        self.audience = audience
        self.jwks = list(jwks)
        self._keys = dict(_public_keys(self.jwks))
        self.revocable = tuple(f"kid:{kid}" for kid in self._keys)  # as that of a token

    def agree_with(self, other: "TokenVerifier") -> bool:
        return self.issuer == other.issuer and self.jwks == other.jwks

    @property
    def has_keys(self) -> bool:
        """False if the service signs with a shared secret and has to check each token itself."""
        return bool(self._keys)

    def verify(self, token: str, now: float) -> Verified:
        """The verified claims. Raises InvalidTokenError, or UnknownKeyError, a subclass of it."""
        header, kid, payload, signature = _parts(token)
        key = self._keys.get(kid)
        if key is None:
            # A token with claims that the service never signs needs no request.
            raise UnknownKeyError(kid, self._checked(kid, _parse(payload), now))
        # The algorithm is that of the key, never one that the header chooses.
        signed = token.rpartition(".")[0].encode()
        if header["alg"] != key.algorithm_name or not key.Algorithm.verify(
            signed, key.key, _decode(signature)
        ):
            raise invalid_token("its signature is wrong")
        return self._checked(kid, _parse(payload), now)

    def _checked(self, kid: str, claims: dict[str, Any], now: float) -> Verified:
        if claims.get("iss") != self.issuer:
            raise invalid_token("another issuer")
        if claims.get("aud") != self.audience:
            raise invalid_token("another audience")
        if (
            not isinstance(subject := claims.get("sub"), str)
            or not _USER_ID.fullmatch(subject)
            or int(subject) > _MAX_USER_ID
            or not isinstance(username := claims.get("preferred_username"), str)
            or not isinstance(jti := claims.get("jti"), str)
            or not isinstance(scope := claims.get("scope", ""), str)
            or not isinstance(session := claims.get("sid"), str | None)
            or not isinstance(client := claims.get("client_id", _NO_KEY), str)
            or not isinstance(kind := claims.get("kind", "person"), str)
            or not _is_list_of_texts(groups := claims.get("grp", []))
            or not _is_list_of_texts(networks := claims.get("networks", []))
            or type(epoch := claims.get("epoch")) is not int
            or type(issued_at := claims.get("iat")) is not int
            or type(expires_at := claims.get("exp")) is not int
            or type(not_before := claims.get("nbf", issued_at)) is not int
        ):
            raise invalid_token("a claim is missing or of another type")
        if issued_at > now + CLOCK_SKEW_SECONDS:
            raise invalid_token("issued in the future; compare both machines' clocks")
        if not_before > now + CLOCK_SKEW_SECONDS:
            raise invalid_token("not valid yet (nbf)")
        if expires_at > issued_at + MAX_LIFETIME_SECONDS:
            raise invalid_token("its lifetime is too long")
        if expires_at <= now:
            raise invalid_token("expired")
        revocable = [f"sub:{subject}:{epoch}", f"jti:{jti}", f"kid:{kid}"]
        if session:
            revocable.append(f"sid:{session}")
        revocable += (f"grp:{group}" for group in groups)
        return Verified(
            User(
                id=int(subject),
                username=username,
                scopes=frozenset(scope.split()),
                expires_at=datetime.fromtimestamp(expires_at, UTC),
                kind=kind,
                key_id=None if client == _NO_KEY else client,
            ),
            expires_at,
            tuple(revocable),
            tuple(map(_network, networks)),
            issued_at,
        )


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


@lru_cache(maxsize=1024)
def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError:
        raise invalid_token("a network is not in CIDR notation") from None


def _public_keys(jwks: Iterable[dict[str, Any]]) -> Iterable[tuple[str, jwt.PyJWK]]:
    for jwk in jwks:
        if not isinstance(kid := jwk.get("kid"), str) or jwk.get("alg") not in _ALGORITHMS:
            continue  # RFC 7517, 5: ignore keys of an unknown type
        try:
            key = jwt.PyJWK(jwk)
        except (jwt.PyJWTError, ValueError):
            continue
        yield kid, key


def _parts(token: str) -> tuple[dict[str, Any], str, str, str]:
    """The header, its `kid`, and the two segments that follow."""
    parts = _COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN_BYTES else None
    if parts is None:
        raise invalid_token("not a JWT of the service's size")
    header = _parse(parts[1])
    # Only what the service writes (RFC 9068, 2.1): no `crit`, and no key in the header or at a URL.
    if header.keys() != {"alg", "kid", "typ"} or header["typ"] != "at+jwt":
        raise invalid_token("its header is not that of an access token")
    if not isinstance(kid := header["kid"], str) or len(kid) > MAX_KID_LENGTH:
        raise invalid_token("its kid is not that of a key")
    return header, kid, parts[2], parts[3]


def _parse(segment: str) -> dict[str, Any]:
    try:
        members = json.loads(_decode(segment), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise invalid_token("not JSON inside") from None
    if not isinstance(members, dict):
        raise invalid_token("not a JSON object inside")
    return members


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _decode(segment: str) -> bytes:
    """base64url without padding (RFC 7515, 2). Only the canonical encoding is accepted."""
    try:
        padded = segment + "=" * (-len(segment) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        raise invalid_token("not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode():
        raise invalid_token("not canonical base64url")
    return decoded
