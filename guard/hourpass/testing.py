"""An issuer of tokens that replaces the service in the tests of an API with a guard.

Use the fixture `hourpass_issuer`, or that of a module or of the session, and call its
`attach(guard)`. pytest finds the fixtures by itself (pytest_plugin.py);
`pytest_plugins = ["hourpass.testing"]` also gives them where the loading of plugins is off.

PYTEST_DONT_REWRITE: there are no assertions here, and a conftest.py may import this module first.
"""

import errno
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from threading import Condition, get_ident
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from hourpass.api_keys import is_api_key
from hourpass.guard.guard import Guard
from hourpass.guard.revocation_feed import Clock
from hourpass.guard.service_client import HEARTBEAT_SECONDS
from hourpass.http import transports
from hourpass.pytest_plugin import (
    hourpass_issuer,
    module_hourpass_issuer,
    session_hourpass_issuer,
)
from hourpass.testing_accounts import Group, IssuedKey, ServiceAccount

__all__ = [
    "Group",
    "Issuer",
    "MovableClock",
    "ServiceAccount",
    "SigningKey",
    "authorization",
    "hourpass_issuer",
    "module_hourpass_issuer",
    "session_hourpass_issuer",
]

LIFETIME = timedelta(minutes=60)
KEY_LIFETIME = timedelta(days=90)
KEPT_AFTERWARDS = timedelta(days=1)  # the feed keeps a revocation this much longer than a token

_HEARD_WITHIN_SECONDS = 10.0


def authorization(token: str) -> dict[str, str]:
    """The header that carries the token."""
    return {"Authorization": f"Bearer {token}"}


class MovableClock:
    """Real time plus all that it was advanced by."""

    def __init__(self) -> None:
        self._moved_by = 0.0

    def time(self) -> float:
        return time.time() + self._moved_by

    def monotonic(self) -> float:
        return time.monotonic() + self._moved_by

    def advance(self, span: timedelta) -> None:
        self._moved_by += span.total_seconds()


class Issuer:
    """Issues and revokes tokens and API keys, and answers guards as the service does. Can simulate
    outages."""

    def __init__(self, name: str = "https://hourpass.example", audience: str = "ml-api") -> None:
        self.name = name
        self.audience = audience
        self.clock = MovableClock()
        self.asked: Counter[str] = Counter()  # by path
        self._key = SigningKey()
        self._api_keys: dict[str, IssuedKey] = {}
        self._ids = count(1_000)  # of groups and service accounts
        self._disabled: set[int] = set()
        self._epochs: Counter[int] = Counter()  # by user
        self._revoked: list[dict[str, str]] = []
        self._is_away = False
        self._changed = Condition()
        # By thread of a guard: the number of revocations that it has read.
        self._heard: dict[int, int] = {}
        self._undo = ExitStack()

    def attach(self, guard: Guard) -> None:
        """Make the guard use this issuer and its clock until the test ends."""
        self.audience = guard.audience
        self.name = guard.issuer or self.name
        before = guard.transport, guard.clock

        def connect(transport: transports.Transport | None, clock: Clock) -> None:
            guard.transport, guard.clock = transport, clock
            guard.close()

        connect(lambda: _IssuerTransport(self), self.clock)
        self._undo.callback(connect, *before)

    def close(self) -> None:
        self._undo.close()
        with self._changed:
            self._is_away = True
            self._changed.notify_all()

    def token(
        self,
        *scopes: str,
        user_id: int = 1,
        username: str = "lancelot",
        groups: Iterable[Group] = (),
        **claims: Any,
    ) -> str:
        """A valid token, with the scopes of the `groups` too. `claims` replace the usual ones."""
        now = int(self.clock.time())
        groups = list(groups)
        all_scopes = frozenset(scopes).union(*(group.scopes for group in groups))
        said = {
            "iss": self.name,
            "aud": self.audience,
            "sub": str(user_id),
            "preferred_username": username,
            "client_id": "hourpass",
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + int(LIFETIME.total_seconds()),
            "auth_time": now,
            "epoch": self._epochs[user_id],
            **({"scope": " ".join(sorted(all_scopes))} if all_scopes else {}),
            **({"grp": [group.claim for group in groups]} if groups else {}),
        }
        return self._key.sign({**said, **claims})

    def api_key(
        self,
        *scopes: str,
        groups: Iterable[Group] = (),
        networks: Iterable[str] = (),
        expires_in: timedelta = KEY_LIFETIME,
        **owner: Any,
    ) -> str:
        """A valid API key. `owner` are `user_id`, `username` and further claims of its tokens, as
        for token()."""
        expires_at = self.clock.time() + expires_in.total_seconds()
        key = IssuedKey(frozenset(scopes), list(groups), list(networks), expires_at, owner)
        self._api_keys[key.key] = key
        self.publish(key.fingerprint)
        return key.key

    def change_api_key(
        self,
        key: str,
        *,
        scopes: Iterable[str] | None = None,
        networks: Iterable[str] | None = None,
        expires_in: timedelta | None = None,
    ) -> None:
        """End its tokens, and issue others to it from now on. The guards know it when this
        returns."""
        known = self._api_keys[key]
        if scopes is not None:
            known.scopes = frozenset(scopes)
        if networks is not None:
            known.networks = list(networks)
        if expires_in is not None:
            known.expires_at = self.clock.time() + expires_in.total_seconds()
        self._end_tokens(known)

    def rotate_api_key(self, key: str, overlap: timedelta = timedelta(0)) -> str:
        """Replace it. The old key works until the end of the overlap."""
        old = self._api_keys[key]
        new = IssuedKey(old.scopes, old.groups, old.networks, old.expires_at, old.claims)
        self._api_keys[new.key] = new
        self.publish(new.fingerprint)
        old.expires_at = min(old.expires_at, self.clock.time() + overlap.total_seconds())
        self._end_tokens(old)
        return new.key

    def suspend_api_key(self, key: str) -> None:
        """Until resume_api_key(). The guards know it when this returns."""
        self._api_keys[key].is_suspended = True
        self._end_tokens(self._api_keys[key])

    def resume_api_key(self, key: str) -> None:
        self._api_keys[key].is_suspended = False
        self.publish(self._api_keys[key].fingerprint)

    def service_account(self, username: str, *scopes: str) -> ServiceAccount:
        return ServiceAccount(self, next(self._ids), username, frozenset(scopes))

    def group(self, name: str, *scopes: str) -> Group:
        return Group(next(self._ids), name, frozenset(scopes))

    def narrow_group(self, group: Group, *scopes: str) -> None:
        """Leave it only these scopes, which ends the tokens of its members."""
        claim = group.claim
        group.scopes, group.version = frozenset(scopes), group.version + 1
        self.publish(f"grp:{claim}")

    def expired_token(self, *scopes: str) -> str:
        now = int(self.clock.time())
        return self.token(*scopes, iat=now - int(LIFETIME.total_seconds()) - 1, exp=now - 1)

    def revoked_token(self, *scopes: str) -> str:
        token = self.token(*scopes)
        self.revoke(token)
        return token

    def forged_token(self, *scopes: str) -> str:
        """A token with this issuer's `kid`, signed with another key."""
        stranger = Issuer(self.name, self.audience)
        stranger.clock = self.clock
        stranger._key.kid = self._key.kid
        return stranger.token(*scopes)

    def foreign_token(self, *scopes: str) -> str:
        """A token of another issuer, signed with another key."""
        return Issuer("https://elsewhere.example", self.audience).token(*scopes)

    def revoke(self, token: str) -> None:
        """Revoke one token or API key. The guards know it when this returns."""
        if is_api_key(token):
            self._end_tokens(self._api_keys.pop(token))
            return
        claims = jwt.decode(token, options={"verify_signature": False})
        self.publish(f"jti:{claims['jti']}")

    def disable(self, user_id: int) -> None:
        """Revoke all tokens of a user. The service does so when it disables or removes a user,
        whose API keys work again only after enable()."""
        self._disabled.add(user_id)
        self.publish(f"sub:{user_id}:{self._epochs[user_id]}")

    def enable(self, user_id: int) -> None:
        """After disable(). Tokens from before stay revoked."""
        self._disabled.discard(user_id)
        self._epochs[user_id] += 1

    def publish(self, value: str) -> None:
        """Revoke a value: `jti:…`, `sid:…`, `kid:…`, `grp:<id>.<version>` or `sub:<id>:<epoch>`
        (decision 6)."""
        now = datetime.fromtimestamp(self.clock.time(), UTC)
        expires_at = now + LIFETIME + KEPT_AFTERWARDS
        with self._changed:
            self._revoked.append({"value": value, "expires_at": expires_at.isoformat()})
            self._changed.notify_all()
        self._wait_until_heard()

    def rotate_key(self) -> None:
        """Sign with a new key, and publish only that one."""
        self._key = SigningKey()

    def revoke_key(self) -> None:
        """Revoke all tokens so far, as `hourpass signing-keys revoke` does."""
        revoked = self._key
        self.rotate_key()
        self.publish(f"kid:{revoked.kid}")

    @contextmanager
    def outage(self, lasting: timedelta = timedelta(minutes=1)) -> Iterator[None]:
        """Inside the block, the service has been unreachable for `lasting`. Then it is back."""
        with self._changed:
            self._is_away = True
            self._changed.notify_all()
        self.clock.advance(lasting)
        yield
        with self._changed:
            self._is_away = False
            self._heard = dict.fromkeys(self._heard, -1)
        self._catch_up()

    def advance_time(self, span: timedelta) -> None:
        """Advance the clock while the service stays reachable, so the guards stay up to date."""
        self.clock.advance(span)
        self._catch_up()

    # Their former names.
    stand_in_for = attach
    let_pass = advance_time

    def _end_tokens(self, key: IssuedKey) -> None:
        session = key.session
        key.version += 1
        self.publish(f"sid:{session}")

    def _catch_up(self) -> None:
        """The first revocation ends a request that was sent before now, the second a new one."""
        for _ in range(2):
            self.publish(f"jti:{secrets.token_urlsafe(16)}")

    def _wait_until_heard(self) -> None:
        """Wait until every guard asks for what comes after the feed's end."""

        def all_heard() -> bool:
            return self._is_away or set(self._heard.values()) <= {len(self._revoked)}

        with self._changed:
            if not self._changed.wait_for(all_heard, _HEARD_WITHIN_SECONDS):
                raise TimeoutError("a guard does not follow the feed")

    def answer(self, request: "Request") -> "Response":
        path = request.url.path
        self.asked[path] += 1
        if self._is_away:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "away")
        match path:
            case "/.well-known/oauth-authorization-server":
                return Response.of_json({"issuer": self.name})
            case "/.well-known/jwks.json":
                return Response.of_json({"keys": [self._key.public_jwk()]})
            case "/revocations":
                return self._page(request)
            case "/token" if request.method == "POST":
                return self._exchange(dict(parse_qsl((request.content or b"").decode())))
        return Response(404)

    def _exchange(self, form: dict[str, str]) -> "Response":
        """RFC 8693, 2."""
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange":
            return Response.of_json({"error": "unsupported_grant_type"}, 400)
        key = self._api_keys.get(form.get("subject_token", ""))
        is_of_a_key = form.get("subject_token_type", "").endswith(":token-type:api_key")
        if (
            key is None
            or not is_of_a_key
            or key.is_suspended
            or key.expires_at <= self.clock.time()
            or key.claims.get("user_id", 1) in self._disabled
        ):
            return Response.of_json({"error": "invalid_request"}, 400)
        token = self._token_of(key, form.get("audience", self.audience))
        return Response.of_json(
            {
                "access_token": token,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "bearer",
            }
        )

    def _token_of(self, key: IssuedKey, audience: str) -> str:
        """The same one for all guards until half of its life is over."""
        now = int(self.clock.time())
        epoch = self._epochs[key.claims.get("user_id", 1)]
        issued_for = (key.version, self._key.kid, epoch, *(group.claim for group in key.groups))
        issued_before = key.tokens.get(audience)
        if issued_before and issued_before[0] == issued_for:
            claims = jwt.decode(issued_before[1], options={"verify_signature": False})
            if now < (claims["iat"] + claims["exp"]) / 2:
                return issued_before[1]
        token = self.token(
            *key.scopes,
            groups=key.groups,
            **{
                **key.claims,
                "aud": audience,
                "client_id": key.id,
                "sid": key.session,
                "limited": True,
                "exp": min(now + int(LIFETIME.total_seconds()), int(key.expires_at)),
                **({"networks": key.networks} if key.networks else {}),
            },
        )
        key.tokens[audience] = issued_for, token
        return token

    def forget_listener(self) -> None:
        with self._changed:
            self._heard.pop(get_ident(), None)
            self._changed.notify_all()

    def _page(self, request: "Request") -> "Response":
        query = request.url.params
        after, wait = int(query.get("after", "0")), int(query["wait"])
        with self._changed:
            self._heard[get_ident()] = after if "after" in query else -1
            self._changed.notify_all()
        date = datetime.fromtimestamp(self.clock.time(), UTC)
        headers = {"Date": format_datetime(date, usegmt=True)}
        return Response(200, headers, _Pieces(self._pieces_of_page(after, wait)))

    def _pieces_of_page(self, after: int, wait: int) -> Iterator[bytes]:
        """Heartbeats until there is a revocation or the wait ends, and then the page."""
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            with self._changed:
                is_over = self._changed.wait_for(
                    lambda: self._is_away or len(self._revoked) > after,
                    min(left, HEARTBEAT_SECONDS),
                )
            if is_over:
                break
            if left > HEARTBEAT_SECONDS:
                yield b" "
        if self._is_away:
            raise ConnectionResetError(errno.ECONNRESET, "away")
        revoked = self._revoked[after:]
        page = {"revocations": revoked, "cursor": str(after + len(revoked)), "more": False}
        yield json.dumps(page).encode()


class SigningKey:
    def __init__(self) -> None:
        self.kid = secrets.token_hex(8)
        self._private = ec.generate_private_key(ec.SECP256R1())

    def sign(self, claims: dict[str, Any]) -> str:
        headers = {"kid": self.kid, "typ": "at+jwt"}
        return jwt.encode(claims, self._private, "ES256", headers)

    def public_jwk(self) -> dict[str, Any]:
        jwk: dict[str, Any] = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}


class _Pieces:
    """A body."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RequestUrl:
    path: str
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What a guard asks. It has the attributes of a request of httpx that matter here."""

    url: RequestUrl
    headers: dict[str, str]
    method: str = "GET"
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What it is told. A response of httpx or httpx2 would do as well."""

    status_code: int
    headers: dict[str, str] = field(default_factory=dict)
    stream: _Pieces = field(default_factory=lambda: _Pieces([]))

    @classmethod
    def of_json(cls, members: dict[str, Any], status: int = 200) -> "Response":
        return cls(status, stream=_Pieces([json.dumps(members).encode()]))


class _IssuerTransport:
    """Passes a guard's requests on to the issuer. The guard closes it in its background thread."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def handle_request(self, request: transports.Request) -> Response:
        url = urlsplit(request.url)
        asked = RequestUrl(url.path, dict(parse_qsl(url.query)))
        return self._issuer.answer(Request(asked, request.headers, request.method, request.content))

    def close(self) -> None:
        self._issuer.forget_listener()
