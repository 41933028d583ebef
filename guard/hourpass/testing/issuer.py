"""An issuer of tokens and API keys, for tests without a service."""

import errno
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt

from hourpass.api_keys import is_api_key
from hourpass.guard.guard import Guard
from hourpass.guard.revocation_feed import Clock
from hourpass.http import transports
from hourpass.testing.accounts import Group, IssuedKey, ServiceAccount
from hourpass.testing.clock import MovableClock
from hourpass.testing.feed import Feed
from hourpass.testing.requests import Request, RequestUrl, Response
from hourpass.testing.signing_key import SigningKey

LIFETIME = timedelta(minutes=60)
KEY_LIFETIME = timedelta(days=90)
KEPT_AFTERWARDS = timedelta(days=1)  # the feed keeps a revocation this much longer than a token


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
        self._feed = Feed()
        self._undo = ExitStack()

    def attach(self, guard: Guard) -> None:
        """Make the guard use this issuer and its clock until the test ends."""
        self.audience = guard.audience
        self.name = guard.issuer or self.name
        before = guard.transport, guard.clock

        def connect(transport: transports.Transport | None, clock: Clock) -> None:
            guard.transport, guard.clock = transport, clock
            guard.close()

        connect(lambda: _IssuerTransport(self, self._feed), self.clock)
        self._undo.callback(connect, *before)

    def close(self) -> None:
        self._undo.close()
        self._feed.go_away()

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
        """Refuse the key until resume_api_key(). The guards know it when this returns."""
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
        (decision 6). The guards know it when this returns."""
        now = datetime.fromtimestamp(self.clock.time(), UTC)
        self._feed.add(value, now, LIFETIME + KEPT_AFTERWARDS)

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
        self._feed.go_away()
        self.clock.advance(lasting)
        yield
        self._feed.come_back()
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

    def answer(self, request: Request) -> Response:
        path = request.url.path
        self.asked[path] += 1
        if self._feed.is_away:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "away")
        match path:
            case "/.well-known/oauth-authorization-server":
                return Response.of_json({"issuer": self.name})
            case "/.well-known/jwks.json":
                return Response.of_json({"keys": [self._key.public_jwk()]})
            case "/revocations":
                return self._feed.page(request, self.clock.time())
            case "/token" if request.method == "POST":
                return self._exchange(dict(parse_qsl((request.content or b"").decode())))
        return Response(404)

    def _exchange(self, form: dict[str, str]) -> Response:
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
        """All guards get the same token until half of its lifetime is over."""
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


class _IssuerTransport:
    """Passes a guard's requests on to the issuer. The guard closes it in its background thread."""

    def __init__(self, issuer: Issuer, feed: Feed) -> None:
        self._issuer = issuer
        self._feed = feed

    def handle_request(self, request: transports.Request) -> Response:
        url = urlsplit(request.url)
        asked = RequestUrl(url.path, dict(parse_qsl(url.query)))
        return self._issuer.answer(Request(asked, request.headers, request.method, request.content))

    def close(self) -> None:
        self._feed.forget_reader()
