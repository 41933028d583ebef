"""A token can be requested for one API only (RFC 8707): `resource` becomes its audience."""

from typing import Any

import pytest
from httpx import AsyncClient

from app.settings import Settings
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.openapi import assert_documented
from tests.support.settings import Clock
from tests.support.users import LANCELOT, assert_problem, claims_of, open_session, refresh, register

MODELS = "https://models.example/v1?a=b"
ACCEPTED = [
    MODELS,
    "urn:example:models",
    "http://[::1]:8000",
    "https://models.example/caf%C3%A9",
    "https://m.example/" + "a" * 182,
]
REFUSED: list[Any] = [
    "models",
    "/models",
    "//models.example",
    "https:",
    "https:/models",
    "https://",
    "https://models.example/#",
    "https://models.example/#a",
    "https://models.example/a b",
    "https://models.example/%",
    "https://models.example/%zz",
    "https://models.example/caf\u00e9",
    "https://models.example/\r\nX: y",
    'https://models.example/"',
    "1a:b",
    "https://m.example/" + "a" * 183,
    [MODELS],
    [MODELS, MODELS],
    {"uri": MODELS},
    7,
]


@on_sqlite
async def test_the_resource_becomes_the_audience(
    client: AsyncClient, settings: Settings, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    for resource in ACCEPTED:
        with subtests.test(resource[:40]):
            for how in ("json", "data"):
                sent: dict[str, Any] = {how: {**LANCELOT, "resource": resource}}
                response = await client.post("/token", **sent)
                assert claims_of(response.json()["token"])["aud"] == resource
    for nothing in ("", None):
        response = await client.post("/token", json={**LANCELOT, "resource": nothing})
        assert claims_of(response.json()["token"])["aud"] == "ml-api"
    with subtests.test("a session keeps its audience"):
        for person, audience in (({**LANCELOT, "resource": MODELS}, MODELS), (LANCELOT, "ml-api")):
            session = await open_session(client, person)
            grant = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
            other = await client.post("/token", data={**grant, "resource": "https://other.example"})
            assert_problem(other, 400, "invalid_target")
            refreshed = await refresh(client, session["refresh_token"])  # still the newest
            assert claims_of(refreshed.json()["token"])["aud"] == audience
            same = {**grant, "refresh_token": refreshed.json()["refresh_token"]}
            if audience != settings.audience:
                same["resource"] = audience
            again = (await client.post("/token", data=same)).json()
            assert claims_of(again["token"])["aud"] == audience
    refresh_token = (await open_session(client, LANCELOT))["refresh_token"]
    grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    for resource in REFUSED:
        for members in (LANCELOT, grant) if resource == REFUSED[0] else (LANCELOT,):
            with subtests.test(f"an invalid target: {resource!s:.40}"):
                sent = {**members, "resource": resource}
                answers = [await client.post("/token", json=sent)]
                if isinstance(resource, str) or (isinstance(resource, list) and len(resource) > 1):
                    answers.append(await client.post("/token", data=sent))
                for response in answers:
                    problem = assert_problem(response, 400, "invalid_target")
                    assert problem["error_description"] == problem["message"]
                    assert_documented(response)
    assert (await refresh(client, refresh_token)).status_code == 200  # nothing used it up


@on_sqlite
async def test_the_default_audience_can_be_named_at_a_refresh(
    settings: Settings, clock: Clock
) -> None:
    audience = "https://default.example"
    async with started_client(settings.model_copy(update={"audience": audience}), clock) as client:
        await register(client, LANCELOT)
        refresh_token = (await open_session(client, LANCELOT))["refresh_token"]
        grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        response = await client.post("/token", data={**grant, "resource": audience})
        assert claims_of(response.json()["token"])["aud"] == audience
