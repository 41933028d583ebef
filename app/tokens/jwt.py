"""Encodes and decodes access tokens. Pure: no database, no FastAPI, and the time is an argument.

python-jose signs and verifies. Everything else is checked here first, because the library accepts
too much (altered base64, `crit`, missing claims) and raises unexpected errors for malformed tokens.
"""

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.signing_keys.keys import CLOCK_SKEW, Keyring, SigningKey

MAX_TOKEN_BYTES = 4_096

# RFC 9068 requires `client_id` in every token. Clients are not registered here: users get tokens
# for themselves, with any client. In the token of an API key, it is the id of the key.
CLIENT_ID = "hourpass"
PERSON, SERVICE = "person", "service"  # the kinds of users

MAX_GROUPS = 20  # in a token
MAX_NETWORKS = 10
MAX_AUDIENCE_LENGTH = 200


# Exactly as the service writes it.
_HEADER = re.compile(rb'\{"alg":"(ES256|RS256|HS256)","kid":"[0-9a-f]{16}","typ":"at\+jwt"\}')
# With an HS256 secret, APIs can sign any claims. A `jti` or `sid` is stored in the revocation feed,
# so it must be short and plain. Scopes and methods are sent in headers.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AUDIENCE = re.compile(rf"[\x21-\x7e]{{1,{MAX_AUDIENCE_LENGTH}}}")
_SESSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # that of an API key is <id>.<version>
_GROUP = re.compile(r"[1-9][0-9]{0,18}\.[0-9]{1,10}")  # <id>.<version>
_NETWORK = re.compile(r"[0-9a-f.:]{2,45}/[0-9]{1,3}")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


class UnknownKeyError(InvalidTokenError):
    """Clients get the same response as for any other invalid token."""


@dataclass(frozen=True, slots=True)
class AccessTokenRequest:
    """The claims of a token to be issued.

    A new `token_version` of the subject revokes all tokens with the old one. `session` is the id of
    the session that the token belongs to, if any. `methods` are the authentication methods of
    RFC 8176, if there was more than the password. `audience` is the API that the token is for, if
    not the setting AUDIENCE. `is_limited`: the token has less than all rights of the account, or
    comes from an API key. `groups` are `<id>.<version>`. The token works from `networks` only, in
    CIDR notation, if there are any. `not_after` shortens its lifetime.
    """

    subject: str
    username: str
    token_version: int
    scope: str
    authenticated_at: datetime
    session: str | None = None
    methods: tuple[str, ...] = ()
    audience: str | None = None
    client_id: str = CLIENT_ID
    kind: str = PERSON
    is_limited: bool = False
    groups: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    not_after: datetime | None = None


class Claims(NamedTuple):
    """The claims of a token whose signature and times have been checked (RFC 9068, 2.2)."""

    subject: str
    username: str
    token_version: int
    scopes: frozenset[str]
    jti: str
    kid: str
    audience: str
    session: str | None
    methods: tuple[str, ...]
    authenticated_at: int
    issued_at: int
    expires_at: int
    client_id: str
    kind: str
    is_limited: bool
    groups: tuple[str, ...]
    networks: tuple[str, ...]

    @property
    def api_key_id(self) -> str | None:
        """The id of the API key that the token comes from, if any."""
        return None if self.client_id == CLIENT_ID else self.client_id

    def revocation_keys(self) -> list[str]:
        """The revocation values that would revoke this token."""
        values = [f"sub:{self.subject}:{self.token_version}", f"jti:{self.jti}", f"kid:{self.kid}"]
        if self.session:
            values.append(f"sid:{self.session}")
        return [*values, *(f"grp:{group}" for group in self.groups)]


class NotYetValidError(InvalidTokenError):
    """The token becomes valid later (`nbf`), unless it is revoked before."""

    def __init__(self, claims: Claims) -> None:
        super().__init__()
        self.claims = claims


class AccessTokens:
    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self.lifetime = timedelta(minutes=settings.token_minutes)
        self.keyring = keyring
        self.issuer = settings.issuer
        self.audience = settings.audience

    def encode(self, request: AccessTokenRequest, now: datetime) -> str:
        """Returns a signed token, valid for `lifetime` from `now`, or until `not_after`."""
        issued_at = int(now.timestamp())
        expires_at = issued_at + int(self.lifetime.total_seconds())
        if request.not_after:
            expires_at = min(expires_at, int(request.not_after.timestamp()))
        claims = build_claims(request, self.issuer, self.audience, issued_at, expires_at)
        return self.keyring.current(now).sign(claims)

    def decode(self, token: str, now: datetime) -> Claims:
        """Returns the claims of a valid token, for whatever audience it is.

        Raises InvalidTokenError, and its subclasses UnknownKeyError, if the header is one that the
        service writes, but with an unknown key, and NotYetValidError.
        """
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise InvalidTokenError
        header, _, rest = token.partition(".")
        payload, _, signature = rest.partition(".")
        key = self.keyring.by_header.get(header)
        if key is None:
            raise UnknownKeyError if _could_be_ours(header) else InvalidTokenError
        if not _has_valid_signature(key, f"{header}.{payload}", signature):
            raise InvalidTokenError
        claims = _parse(payload)
        seconds = now.timestamp()
        latest = seconds + CLOCK_SKEW.total_seconds()  # that a token can have been issued
        if (
            claims.get("iss") != self.issuer
            or not isinstance(audience := claims.get("aud"), str)
            or not (audience == self.audience or _AUDIENCE.fullmatch(audience))
            or not isinstance(subject := claims.get("sub"), str)
            or not isinstance(username := claims.get("preferred_username"), str)
            or not _is_unicode(username)
            or not isinstance(jti := claims.get("jti"), str)
            or not _ID.fullmatch(jti)
            or not isinstance(scope := claims.get("scope", ""), str)
            or not _PRINTABLE.fullmatch(scope)
            or not isinstance(session := claims.get("sid"), str | None)
            or not (session is None or _SESSION.fullmatch(session))
            or not isinstance(client_id := claims.get("client_id", CLIENT_ID), str)
            or not _ID.fullmatch(client_id)
            or (kind := claims.get("kind", PERSON)) not in (PERSON, SERVICE)
            or not isinstance(is_limited := claims.get("limited", False), bool)
            or type(token_version := claims.get("epoch")) is not int
            or not 0 <= token_version < 2**31
            or type(authenticated_at := claims.get("auth_time")) is not int
            or type(issued_at := claims.get("iat")) is not int
            or type(expires_at := claims.get("exp")) is not int
            # The service sends no `nbf`, but others sign with an HS256 secret too.
            or type(not_before := claims.get("nbf", issued_at)) is not int
            or issued_at > latest
            # A longer lifetime than ours could outlast the token's revocation.
            or not seconds < expires_at <= issued_at + int(self.lifetime.total_seconds())
        ):
            raise InvalidTokenError
        methods = _list_of(_PRINTABLE, claims.get("amr", []), MAX_TOKEN_BYTES)
        valid = Claims(
            subject=subject,
            username=username,
            token_version=token_version,
            scopes=frozenset(scope.split()),
            jti=jti,
            kid=key.kid,
            audience=audience,
            session=session,
            methods=methods,
            authenticated_at=authenticated_at,
            issued_at=issued_at,
            expires_at=expires_at,
            client_id=client_id,
            kind=kind,
            is_limited=is_limited,
            groups=_list_of(_GROUP, claims.get("grp", []), MAX_GROUPS),
            networks=_list_of(_NETWORK, claims.get("networks", []), MAX_NETWORKS),
        )
        if not_before > latest:
            raise NotYetValidError(valid)
        return valid


def build_claims(
    request: AccessTokenRequest, issuer: str, audience: str, issued_at: int, expires_at: int
) -> dict[str, object]:
    """`audience` is the default one."""
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": request.audience or audience,
        "sub": request.subject,
        "preferred_username": request.username,
        "client_id": request.client_id,
        "jti": secrets.token_urlsafe(16),
        "iat": issued_at,
        "exp": expires_at,
        "auth_time": int(request.authenticated_at.timestamp()),
        "epoch": request.token_version,
    }
    optional: dict[str, object] = {
        "scope": request.scope,  # RFC 6749, 3.3 allows no empty scope
        "sid": request.session,
        "amr": list(request.methods),
        "kind": None if request.kind == PERSON else request.kind,
        "limited": request.is_limited,
        "grp": list(request.groups),
        "networks": list(request.networks),
    }
    return claims | {name: value for name, value in optional.items() if value}


def _list_of(pattern: re.Pattern[str], value: object, limit: int) -> tuple[str, ...]:
    """Raises InvalidTokenError unless the value is a list of texts that match."""
    if (
        not isinstance(value, list)
        or len(value) > limit
        or not all(isinstance(text, str) and pattern.fullmatch(text) for text in value)
    ):
        raise InvalidTokenError
    return tuple(value)


def _could_be_ours(header: str) -> bool:
    """Whether the service can have written this header, with a key that is unknown here."""
    return _HEADER.fullmatch(_decode(header)) is not None


def _is_unicode(text: str) -> bool:
    """JSON can contain half of a surrogate pair, which cannot be encoded in a response."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _has_valid_signature(key: SigningKey, signed: str, signature: str) -> bool:
    verified: bool = key.public.verify(signed.encode(), _decode(signature))
    return verified


def _parse(payload: str) -> dict[str, Any]:
    """Strict although the signature is valid, because APIs have the HS256 secret as well."""
    decoded = _decode(payload)
    try:
        text = decoded.decode()
        claims, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        raise InvalidTokenError from None
    if not isinstance(claims, dict) or end != len(text):
        raise InvalidTokenError
    return claims


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


_JSON = json.JSONDecoder(object_pairs_hook=_without_duplicates)


# The library's own decoder for base64url accepts `+` and `/` as well. Here they become a character
# that strict decoding refuses.
_TO_BASE64 = bytes.maketrans(b"-_+/", b"+/__")


def _decode(segment: str) -> bytes:
    """Decode base64url without padding (RFC 7515, 2). Accepts only the canonical encoding: with
    unused bits or extra characters, one token would have many spellings."""
    given = segment.encode()
    padding = b"=" * (-len(given) % 4)
    try:
        decoded = binascii.a2b_base64(given.translate(_TO_BASE64) + padding, strict_mode=True)
    except binascii.Error:
        raise InvalidTokenError from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != given:
        raise InvalidTokenError
    return decoded
