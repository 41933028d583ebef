"""Scopes cannot be granted if a token with them could be too long to be valid."""

from bisect import bisect_right
from dataclasses import replace

import pytest
from httpx import AsyncClient

from app.context import RequestContext
from app.main import create_app
from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import MAX_TOKEN_BYTES
from app.tokens.token_size import longest_request, longest_token
from app.users.service import Users
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, assert_problem, bearer, log_in, register


def scopes_of(length: int) -> list[str]:
    """Scopes of that many characters, including the spaces between them."""
    scopes = [f"{number:0>99}" for number in range(length // 100)]
    rest = length % 100
    return [*scopes, "r" * rest] if rest else [*scopes[:-1], scopes[-1] + "r"]


def longest_scopes(settings: Settings) -> int:
    """The length of the longest scopes that can be granted."""
    lengths = range(1, 4_001)
    return bisect_right(
        lengths, MAX_TOKEN_BYTES, key=lambda length: longest_token(settings, scopes_of(length))
    )


@on_sqlite
async def test_the_longest_token_is_as_long_as_a_real_one(settings: Settings, clock: Clock) -> None:
    settings = settings.model_copy(update={"signing_algorithm": "RS256", "issuer": "i" * 200})
    app = create_app(settings, clock, clock)
    limit = longest_scopes(settings)
    networks = [f"{'ffff:' * 7}fff{digit}/128" for digit in range(10)]
    async with app.router.lifespan_context(app):
        tokens, now = app.state.tokens, clock()

        def token_with(length: int, *networks: str) -> str:
            request = longest_request(scopes_of(length), networks)
            token: str = tokens.encode(replace(request, audience="a" * 200), now)
            assert len(token) == longest_token(settings, scopes_of(length), networks)
            return token

        for length in (1, 2, 3, 500, limit, limit + 1, limit + 2, 4_000):
            token_with(length)
        token_with(limit - 600, *networks)
        assert MAX_TOKEN_BYTES - 1 <= len(token_with(limit)) <= MAX_TOKEN_BYTES
        assert tokens.decode(token_with(limit), now)
        with pytest.raises(InvalidTokenError):
            tokens.decode(token_with(limit + 1), now)


@on_postgresql
async def test_scopes_that_make_a_token_too_long_are_rejected_with_its_length(
    client: AsyncClient, users: Users, context: RequestContext, settings: Settings
) -> None:
    user_id = await register(client, LANCELOT)
    arthur = bearer(await log_in(client, ARTHUR))
    limit = longest_scopes(settings)
    fitting, longer = scopes_of(limit), scopes_of(limit + 1)
    said = f"{longest_token(settings, longer):,} bytes"
    person = {"username": "mordred", "password": "the last battle"}
    calls = [
        ("POST", "/users", person),
        ("PATCH", f"/users/{user_id}", {}),
        ("POST", "/invitations", {}),
    ]
    for method, path, members in calls:
        refused = await client.request(
            method, path, json={**members, "scopes": longer}, headers=arthur
        )
        (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
        assert (field["field"], said in field["message"]) == ("scopes", True)
        granted = await client.request(
            method, path, json={**members, "scopes": fitting}, headers=arthur
        )
        assert granted.status_code in (200, 201), granted.text
    # The entry in the audit log is shortened.
    response = await client.get("/audit", params={"action": "user.grant"}, headers=arthur)
    to = response.json()["entries"][0]["details"]["to"]
    assert to.startswith("0" * 99)
    assert to.endswith(f"and {len(fitting) - to.count(' ') + 2} more")
    # A user can have more, from a time with a shorter ISSUER, and can lose some of them.
    await users.set_scopes(context, user_id, set(fitting[1:]))
    token = await log_in(client, LANCELOT)
    assert len(token) < MAX_TOKEN_BYTES
    verified = await client.get("/verify", params={"scope": fitting[1]}, headers=bearer(token))
    assert verified.status_code == 200
    assert len(verified.headers["x-auth-scopes"]) == len(" ".join(fitting[1:]))


@on_sqlite
async def test_a_scope_that_cannot_be_granted_is_rejected_with_the_reason(
    client: AsyncClient,
) -> None:
    user_id = await register(client, LANCELOT)
    arthur = bearer(await log_in(client, ARTHUR))
    for scope in ("*", "pre*dict:x", "predict:**", "predict:", "predict:a//b", "p" * 300, ""):
        for method, path, members in (
            ("POST", "/users", {"username": "mordred", "password": "the last battle"}),
            ("PATCH", f"/users/{user_id}", {}),
            ("POST", "/invitations", {}),
        ):
            body = {**members, "scopes": ["predict", scope]}
            response = await client.request(method, path, json=body, headers=arthur)
            (field,) = assert_problem(response, 422, "invalid_request")["fields"]
            assert field["field"] == "scopes"
            assert field["message"].startswith(("A scope ", "A name ", "A * "))
    assert (await client.get("/users/2", headers=arthur)).json()["scopes"] == []
