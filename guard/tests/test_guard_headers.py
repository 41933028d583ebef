"""The headers with the user that the middleware adds, and that a caller cannot forge."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from hourpass import Guard, InvalidTokenError, MissingTokenError, User
from hourpass.guard.bearer import parse_authorization
from hourpass.guard.identity_headers import IdentityHeaders
from hourpass.testing import Issuer

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
FAKED = [
    "X-Auth-User-Id",
    "x_auth_user_id",
    "X.Auth-User_Id",
    "X-Auth-Username",
    "X-Auth-Scopes",
    "X-Auth-Kind",
    "X_Auth.Key-Id",
    "X-Auth-Request-User",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "Remote-User",
    "REMOTE_USER",
    "X-Remote-User",
    "X-WEBAUTH-USER",
]


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


async def seen_by_app(
    token: str | None, kind: str = "http", scope: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The scope as the app sees it."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    scope = {"type": kind, "path": "/predict", "headers": [], **(scope or {})}
    if token:
        scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]
    await guard.middleware(app, **options)(scope, asyncio.Queue[Any]().get, send)
    return {**seen[0], "sent": sent} if seen else {"sent": sent}


def headers_of(scope: dict[str, Any]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    assert len(headers) == len(scope["headers"])
    return headers


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_headers_name_the_user(issuer: Issuer, kind: str) -> None:
    token = issuer.token("train", "predict", user_id=7, username="Guenièvre du Lac")
    headers = headers_of(await seen_by_app(token, kind))
    assert headers[b"x-auth-user-id"] == b"7"
    assert headers[b"x-auth-username"] == b"Gueni%C3%A8vre%20du%20Lac"
    assert headers[b"x-auth-scopes"] == b"predict train"
    assert headers[b"x-auth-kind"] == b"person"
    assert b"x-auth-key-id" not in headers


async def test_the_headers_name_the_key_and_the_kind_of_the_user(issuer: Issuer) -> None:
    faked = {"headers": [(b"x-auth-key-id", b"another"), (b"x-auth-kind", b"person")]}
    token = issuer.token(client_id="5dKq0aZ3", kind="service")
    headers = headers_of(await seen_by_app(token, scope=faked))
    assert (headers[b"x-auth-key-id"], headers[b"x-auth-kind"]) == (b"5dKq0aZ3", b"service")


# A token of the service has at most 4,096 bytes, but the guard's user can be a test's own.
@pytest.mark.parametrize(("length", "is_sent"), [(3_800, True), (3_801, False)])
def test_scopes_that_are_too_long_for_a_header_are_left_out(length: int, is_sent: bool) -> None:
    scopes = frozenset({"p" * 1_900, "q" * (length - 1_901)})
    user = User(7, "lancelot", scopes, datetime.now(UTC))
    headers = IdentityHeaders().of(user)
    assert ("X-Auth-Scopes" in headers) == is_sent
    assert headers["X-Auth-User-Id"] == "7"


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_headers_name_the_key_and_the_kind_of_its_owner(
    issuer: Issuer, kind: str
) -> None:
    key = issuer.service_account("svc-nightly").api_key()
    headers = headers_of(await seen_by_app(key, kind))
    assert headers[b"x-auth-key-id"].decode() == key[3:11]
    assert headers[b"x-auth-kind"] == b"service"
    assert headers[b"authorization"].decode() == f"Bearer {key}"  # as with a token


@pytest.mark.parametrize("public", [[], ["/predict"]], ids=["protected", "public"])
async def test_a_caller_cannot_send_them(
    issuer: Issuer, public: list[str], subtests: pytest.Subtests
) -> None:
    token = None if public else issuer.token()
    for name in FAKED:
        with subtests.test(name):
            faked = {"headers": [(name.lower().encode(), b"arthur"), (b"x-other", b"kept")]}
            scope = await seen_by_app(token, scope=faked, public=public)
            assert b"arthur" not in headers_of(scope).values()
            assert headers_of(scope)[b"x-other"] == b"kept"


async def no_app(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError


async def test_further_headers_can_carry_the_username(issuer: Issuer) -> None:
    faked = {"headers": [(b"x-grafana-user", b"arthur")]}
    names = ["Remote-User", "X-Grafana-User"]
    scope = await seen_by_app(issuer.token(), scope=faked, username_headers=names)
    headers = headers_of(scope)
    assert (headers[b"remote-user"], headers[b"x-grafana-user"]) == (b"lancelot", b"lancelot")


@pytest.mark.parametrize(
    "name", ["", "Two Words", "Host", "Authorization", "Content-Length", "a:b"]
)
def test_what_cannot_carry_it_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="username"):
        guard.middleware(no_app, username_headers=[name])


def test_one_name_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match="list"):
        guard.middleware(no_app, username_headers="Remote-User")


async def test_requests_that_share_scope_and_state_do_not_share_their_user(
    issuer: Issuer,
) -> None:
    """As under hypercorn, for the requests of one connection."""
    state: dict[str, Any] = {"database": "shared"}
    shared = {"state": state}
    first = await seen_by_app(issuer.token(username="lancelot"), scope=shared)
    second = await seen_by_app(issuer.token(username="galahad"), scope=shared)
    public = await seen_by_app(None, scope=shared, public=["/predict"])
    assert first["state"]["user"].username == "lancelot"
    assert second["state"]["user"].username == "galahad"
    assert public["state"] == {"database": "shared"}
    assert state == {"database": "shared"}


async def test_an_open_path_has_no_user_of_an_outer_app(issuer: Issuer) -> None:
    outer = await seen_by_app(issuer.token())
    scope = {"state": outer["state"], "hourpass": outer["hourpass"]}
    public = await seen_by_app(None, scope=scope, public=["/predict"])
    assert "user" not in public["state"]
    assert "hourpass" not in public


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bearer   a.b.c", "a.b.c"),
        (b"BEARER a.b.c", "a.b.c"),
        (" \ta.b.c\t ", "a.b.c"),
        ("Bearer a.b.c, Bearer d.e.f", "a.b.c, Bearer d.e.f"),
        ("Bearer", "Bearer"),
        (b"Bearer \xff", "ÿ"),
    ],
)
def test_an_authorization_header_has_one_token(value: str | bytes, token: str) -> None:
    assert parse_authorization(value) == token


@pytest.mark.parametrize("value", [None, "", "  ", "Basic YTpi", "Digest x", "Bearer\ta.b.c d"])
def test_an_authorization_header_without_a_token_is_missing_one(value: str | None) -> None:
    with pytest.raises(MissingTokenError):
        parse_authorization(value)


async def test_a_guard_checks_the_value_of_a_header(issuer: Issuer) -> None:
    value = f"Bearer {issuer.token()}"
    assert guard.check_header(value).username == "lancelot"
    assert (await guard.acheck_header(value.encode())).username == "lancelot"
    for invalid in ("Bearer", "Bearer a.b.c, Bearer d.e.f", "Bearer ÿ", value + " x"):
        with pytest.raises(InvalidTokenError):
            guard.check_header(invalid)
    with pytest.raises(MissingTokenError):
        await guard.acheck_header(None)


class TestTokenInSubprotocol:
    """`new WebSocket(url, ["bearer", token])`."""

    @staticmethod
    def offer(*subprotocols: str) -> dict[str, Any]:
        value = ", ".join(subprotocols).encode()
        headers = [(b"sec-websocket-protocol", value)]
        return {"headers": headers, "subprotocols": list(subprotocols)}

    async def test_the_token_is_read_and_the_app_does_not_see_it(self, issuer: Issuer) -> None:
        token = issuer.token()
        offer = self.offer("bearer", token, "chat")
        scope = await seen_by_app(None, "websocket", offer, token_in_subprotocol=True)
        assert scope["state"]["user"].username == "lancelot"
        assert scope["subprotocols"] == ["chat"]
        assert headers_of(scope)[b"sec-websocket-protocol"] == b"chat"
        assert scope["sent"] == [{"type": "websocket.accept", "subprotocol": "bearer"}]

    async def test_it_is_off_by_default(self, issuer: Issuer) -> None:
        scope = await seen_by_app(None, "websocket", self.offer("bearer", issuer.token()))
        assert [message["type"] for message in scope["sent"]] == ["websocket.close"]

    @pytest.mark.parametrize("offered", [["bearer"], ["chat", "bearer"], ["bearer", "x"], []])
    async def test_another_offer_is_no_token(self, offered: list[str]) -> None:
        offer = self.offer(*offered)
        scope = await seen_by_app(None, "websocket", offer, token_in_subprotocol=True)
        assert [message["type"] for message in scope["sent"]] == ["websocket.close"]

    async def test_an_authorization_header_comes_first(self, issuer: Issuer) -> None:
        offer = self.offer("bearer", issuer.token(username="galahad"))
        scope = await seen_by_app(issuer.token(), "websocket", offer, token_in_subprotocol=True)
        assert scope["state"]["user"].username == "lancelot"
        assert scope["sent"] == [{"type": "websocket.accept"}]
