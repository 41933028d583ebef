"""The fast path and the route give the same response for every token. The fast path is used only
while the cache is fresh."""

import base64
import json
from datetime import timedelta
from itertools import product

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import update

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.token_checks.schemas import identity_headers
from app.users import token_cache
from app.users.authenticated_user import AuthenticatedUser
from app.users.models import User
from app.users.service import Users
from app.users.token_cache import TokenCache
from tests.support.limited_tokens import KEY_ID, token_of_key
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, assert_problem, bearer, log_in, register


def forged(token: str) -> str:
    """For another user, under the old signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "1"}).encode()).rstrip(b"=")
    return f"{header}.{other.decode()}.{signature}"


async def answers(client: AsyncClient, token: str) -> list[tuple[int, str, str | None]]:
    """The responses of both calls, without what differs between requests."""
    responses: list[Response] = [
        await client.get(f"/token_status/{token}"),
        await client.get("/verify", headers=bearer(token)),
        await client.get("/verify", headers={"Authorization": token}),
    ]
    return [
        (response.status_code, response.text, response.headers.get("www-authenticate"))
        for response in responses
    ]


@pytest.fixture
async def tokens(client: AsyncClient, clock: Clock) -> dict[str, str]:
    """One of every kind, each checked while it was valid."""
    galahad = await register(client, GALAHAD)
    expired = await log_in(client, GALAHAD)
    await answers(client, expired)
    clock.advance(timedelta(minutes=59))
    disabled = await log_in(client, GALAHAD)
    await register(client, LANCELOT)
    revoked, valid, fresh = [await log_in(client, LANCELOT) for _ in range(3)]
    for token in (disabled, revoked, valid):
        await answers(client, token)
    clock.advance(timedelta(minutes=1))
    arthur = await log_in(client, {"username": "arthur", "password": "once and future king"})
    await client.put(f"/toggle-user-permission/{galahad}/0", headers=bearer(arthur))
    await client.post("/revoke", data={"token": revoked})
    return {
        "valid": valid,
        "never seen before": fresh,
        "expired": expired,
        "of a disabled user": disabled,
        "revoked": revoked,
        "forged": forged(valid),
        "cut short": valid[:-1],
        "malformed": "a.b.c",
        "of an unknown key": f"{arthur.split('.')[0][:-2]}AA.{valid.split('.', 1)[1]}",
    }


async def test_the_fast_path_and_the_route_give_the_same_answer_to_every_token(
    client: AsyncClient, app: FastAPI, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = {kind: await answers(client, token) for kind, token in tokens.items()}
    monkeypatch.setattr(app.state.token_cache, "verify", lambda _token, _now: None)
    by_route = {kind: await answers(client, token) for kind, token in tokens.items()}
    assert fast == by_route
    valid = {kind for kind, found in fast.items() if found[0][0] == 200}
    assert valid == {"valid", "never seen before"}


@on_sqlite
async def test_verify_names_the_user_in_headers_that_any_proxy_can_copy(
    client: AsyncClient,
) -> None:
    user_id = await register(client, {**LANCELOT, "username": "Guenièvre du Lac"})
    token = await log_in(client, {**LANCELOT, "username": "guenièvre du lac"})
    for _ in range(2):  # by the route, then from memory
        response = await client.get("/verify", headers=bearer(token))
        assert response.json() == {"message": "Token is valid"}
        assert response.headers["x-auth-user-id"] == str(user_id)
        assert response.headers["x-auth-username"] == "Gueni%C3%A8vre%20du%20Lac"
        assert response.headers["x-auth-scopes"] == ""
    assert (await client.get("/verifying")).status_code == 404


@pytest.fixture(params=["fast path", "route"])
def each_path(
    request: pytest.FixtureRequest, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path, for tokens that were checked before, and the route."""
    if request.param == "route":
        monkeypatch.setattr(app.state.token_cache, "verify", lambda _token, _now: None)


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = ("/verify", "/verify/", "/verify//", "/verify/predict?x=1", "/verify/%2e%2e/healthz")


QUERIES = [
    ("scope=predict", 200),
    ("scope=predict%20train", 200),
    ("scope=predict+train", 200),
    ("scope=predict&x=1&scope=train", 200),
    ("x=admin", 200),
    ("scope=admin", 403),
    ("scope=predict&scope=deploy", 403),
    ("scope=Predict", 403),
    ("scope=", 422),
    ("scope", 422),
    ("scope=predict%0d%0aX-Auth-User-Id:1", 422),
    ("scope=%22,scope=%22", 422),
    ("scope=pr%C3%A9dire", 422),
    ("scope=%FF", 422),
]


@pytest.mark.usefixtures("each_path")
@on_sqlite
async def test_verify_answers_by_the_scopes_of_the_query(
    client: AsyncClient,
    app: FastAPI,
    users: Users,
    context: RequestContext,
    subtests: pytest.Subtests,
) -> None:
    user_id = await register(client, LANCELOT)
    await users.set_scopes(context, user_id, {"predict", "train"})
    token = await log_in(client, LANCELOT)
    headers = bearer(token)
    await client.get("/verify", headers=headers)
    for query, status in QUERIES:
        with subtests.test(query):
            response = await client.get(f"/verify?{query}", headers=headers)
            assert response.status_code == status
            assert ("x-auth-user-id" in response.headers) == (status == 200)
            # Without a token, the response does not reveal the required scopes.
            assert (await client.get(f"/verify?{query}")).status_code == 401
    with subtests.test("a proxy may use the method and path of the request"):
        for method, path in product(METHODS, PATHS):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 200, (method, path)
            assert response.headers["x-auth-user-id"] == str(user_id)
            refusal = await client.request(method, path)
            assert refusal.status_code == 401, (method, path)
            assert refusal.headers["www-authenticate"] == 'Bearer realm="hourpass"'
    with subtests.test("the challenge names all the scopes that are needed"):
        response = await client.get("/verify?scope=train+deploy", headers=headers)
        assert_problem(response, 403, "insufficient_scope")
        challenge = 'Bearer realm="hourpass", error="insufficient_scope", scope="deploy train"'
        assert response.headers["www-authenticate"] == challenge
    with subtests.test("the headers name the key and the kind of the user"):
        of_key = token_of_key(app, token, "predict", kind="service")
        for sent, kind, key_id in ((token, "person", None), (of_key, "service", KEY_ID)):
            for _ in range(2):
                found = (await client.get("/verify", headers=bearer(sent))).headers
                assert (found["x-auth-kind"], found.get("x-auth-key-id")) == (kind, key_id)


OF_PATTERNS = [
    ("scope=predict:fraud-v3", 200),
    ("scope=predict:fraud-v3+predict:fraud-v4", 200),
    ("scope=predict:fraud-*", 200),
    ("scope=predict:fraud-v3/*", 200),
    ("scope=predict:meta-llama%2FLlama-3.1-8B-Instruct", 200),
    ("scope=old*scope", 200),
    ("scope=predict:fraud", 403),
    ("scope=predict:*", 403),
    ("scope=predict:fraud-v3+train:fraud-v3", 403),
    ("scope=predict:fraud-a/../b", 403),
    ("scope=predict:fraud-a%252Fb", 403),
    ("scope=old*scopes", 403),
]


@pytest.mark.usefixtures("each_path")
@on_sqlite
async def test_a_pattern_covers_the_names_that_it_matches(
    client: AsyncClient, users: Users, context: RequestContext, subtests: pytest.Subtests
) -> None:
    scopes = {"predict:fraud-*", "predict:meta-llama/*", "old*scope"}  # one predates the grammar
    await users.set_scopes(context, await register(client, LANCELOT), scopes)
    headers = bearer(await log_in(client, LANCELOT))
    await client.get("/verify", headers=headers)
    for query, status in OF_PATTERNS:
        with subtests.test(query):
            response = await client.get(f"/verify?{query}", headers=headers)
            assert response.status_code == status


MODELS = "https://models.example/a"
BY_AUDIENCE = [
    # what is asked, with a token for AUDIENCE, with one for MODELS
    ("/verify", 200, 401),
    (f"/verify?audience={MODELS}", 401, 200),
    ("/verify?audience=https%3A%2F%2Fmodels.example%2Fa", 401, 200),
    ("/verify?audience=ml-api", 200, 401),
    ("/verify?audience=ml-api&scope=predict", 200, 401),
    (f"/verify?audience={MODELS}&scope=train", 401, 403),
    ("/verify?audience=https://models.example/A", 401, 401),
    (f"/verify?audience={MODELS}&audience={MODELS}", 422, 422),
    (f"/verify?audience={MODELS}&audience=ml-api", 422, 422),
    ("/verify?audience=", 422, 422),
    # What Envoy sends with the path_prefix /verify?scope=predict&path=
    (f"/verify?scope=predict&path=/predict?x=1&audience={MODELS}", 422, 422),
    (f"/verify?audience=ml-api&path=/predict?audience={MODELS}", 200, 401),
    (f"/verify?audience={'a' * 201}", 422, 422),
    # Of the request that a proxy checks: its client must not choose the audience.
    (f"/verify/predict?audience={MODELS}", 200, 401),
    (f"/verify/?audience={MODELS}", 200, 401),
]


@pytest.mark.usefixtures("each_path")
@on_sqlite
async def test_verify_accepts_only_tokens_for_the_requested_audience(
    client: AsyncClient, users: Users, context: RequestContext, subtests: pytest.Subtests
) -> None:
    await users.set_scopes(context, await register(client, LANCELOT), {"predict"})
    tokens = [
        await log_in(client, person) for person in (LANCELOT, {**LANCELOT, "resource": MODELS})
    ]
    for token in tokens:
        await client.get("/verify", headers=bearer(token))
    for path, *expected in BY_AUDIENCE:
        with subtests.test(path[:60]):
            responses = [await client.get(path, headers=bearer(token)) for token in tokens]
            assert [response.status_code for response in responses] == expected
            for response in responses:
                assert ("x-auth-user-id" in response.headers) == (response.status_code == 200)
    assert [(await client.get(f"/token_status/{token}")).status_code for token in tokens] == [
        200,
        401,
    ]


def test_scopes_that_are_too_long_for_a_header_are_left_out() -> None:
    for length, is_sent in ((3_800, True), (3_801, False)):
        scopes = frozenset({"p" * 1_900, "q" * (length - 1_901)})
        headers = dict(identity_headers(AuthenticatedUser(7, "lancelot", scopes, "person", None)))
        assert (b"x-auth-scopes" in headers) == is_sent
        assert headers[b"x-auth-user-id"] == b"7"


@on_sqlite
async def test_a_cached_token_is_answered_without_the_database(
    client: AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, LANCELOT)
    tokens = [await log_in(client, LANCELOT) for _ in range(3)]
    await client.get(f"/token_status/{tokens[0]}")  # confirms the user
    # However late a busy machine polls, which is not the point here.
    monkeypatch.setattr(app.state.revocation_cache, "is_fresh", lambda: True)
    monkeypatch.setattr(Database, "session", None)  # a query would fail
    for token in tokens:
        assert (await client.get(f"/token_status/{token}")).status_code == 200


async def test_while_the_cache_is_stale_the_database_is_asked_each_time(
    client: AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached tokens are not used then."""
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert (await answers(client, token))[0][0] == 200
    monkeypatch.setattr(app.state.revocation_cache, "is_fresh", lambda: False)
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(User).where(User.id == user_id).values(is_enabled=False))
        await session.commit()
    assert (await answers(client, token))[0][0] == 401


@on_sqlite
async def test_the_cache_is_limited_and_stores_no_forged_token(
    client: AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "MAX_CACHED", 3)
    memory: TokenCache = app.state.token_cache
    await register(client, LANCELOT)
    good = [await log_in(client, LANCELOT) for _ in range(5)]
    for token in good:
        for _ in range(2):
            assert (await client.get(f"/token_status/{token}")).status_code == 200
    assert list(memory._verified) == good[2:]
    for token in good[2:]:
        for index in range(4):
            altered = f"{token[:-20]}{index:020}"
            assert (await client.get(f"/token_status/{altered}")).status_code == 401
    assert list(memory._verified) == good[2:]
    assert len(memory._confirmed) <= 3
