"""If the owner has a second factor, creating and rotating keys and changing their networks need a
recent code. What only takes rights away never does.
"""

from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient

from app.credentials.second_factors.service import RECENT
from tests.support.authenticator import EnrolledUser, enroll, register_enrolled, token_with
from tests.support.key_calls import KeyCalls, answered
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, assert_problem, refresh, register

pytestmark = on_sqlite

SECOND = timedelta(seconds=1)


@pytest.fixture
async def lancelot(client: AsyncClient, clock: Clock) -> EnrolledUser:
    return await register_enrolled(client, LANCELOT, clock)


async def test_what_adds_rights_needs_a_recent_code(
    client: AsyncClient, lancelot: EnrolledUser, clock: Clock, subtests: pytest.Subtests
) -> None:
    authenticator = lancelot.authenticator
    clock.advance(timedelta(hours=1))
    keys = KeyCalls(client, await token_with(client, LANCELOT, authenticator.code()))
    clock.advance(RECENT)
    key_id = (await keys.create())["id"]  # the login is recent enough
    clock.advance(SECOND)
    calls: list[tuple[str, str, dict[str, Any], int]] = [
        ("POST", "", {"name": "x"}, 201),
        ("PATCH", f"/{key_id}", {"networks": ["192.0.2.0/24"]}, 200),
        ("POST", f"/{key_id}/rotate", {"overlap_seconds": 60}, 201),
    ]
    for method, path, body, status in calls:
        with subtests.test(f"{method} {path}"):
            assert_problem(await keys.send(method, path, **body), 403, "mfa_required")
            wrong = await keys.send(method, path, **body, otp=authenticator.wrong_code())
            assert_problem(wrong, 403, "wrong_code")
            code = authenticator.next_code()
            answered(await keys.send(method, path, **body, otp=code), status)
    with subtests.test("each code works once"):
        assert_problem(await keys.send("POST", name="x", otp=code), 403, "wrong_code")
    recovery_code = authenticator.recovery_codes[0]
    await keys.create(otp=recovery_code)
    assert_problem(await keys.send("POST", name="x", otp=recovery_code), 403, "wrong_code")
    with subtests.test("what takes rights away"):
        await keys.change(key_id, name="y", scopes=[])
        await keys.act(key_id, "suspend")
        await keys.act(key_id, "resume")
        await keys.revoke(key_id)
    with subtests.test("refused attempts are in the audit log"):
        path = "/me/audit?limit=30"
        entries = answered(await client.get(path, headers=keys.headers))["entries"]
        refused = {entry["action"] for entry in entries if not entry["succeeded"]}
        assert refused == {"api_key.create", "api_key.update", "api_key.rotate"}
    with subtests.test("too many wrong codes"):
        answers = [
            await keys.send("POST", name="x", otp=authenticator.wrong_code()) for _ in range(6)
        ]
        assert_problem(answers[-1], 429, "too_many_codes")
    with subtests.test("a refreshed token is as old as its login"):
        token = (await refresh(client, lancelot.refresh_token)).json()["token"]
        refreshed = KeyCalls(client, token)
        assert_problem(await refreshed.send("POST", name="x"), 403, "mfa_required")


async def test_an_administrator_confirms_with_a_code_of_the_administrator(
    client: AsyncClient, clock: Clock
) -> None:
    lancelot = await register(client, LANCELOT)
    authenticator = await enroll(client, ARTHUR, clock)
    token = await token_with(client, ARTHUR, authenticator.code())
    clock.advance(RECENT + SECOND)
    keys = KeyCalls(client, token, f"/users/{lancelot}/api-keys")
    assert_problem(await keys.send("POST", name="x"), 403, "mfa_required")
    made = await keys.create(otp=authenticator.next_code())
    rotation = await keys.send("POST", f"/{made['id']}/rotate")
    assert_problem(rotation, 403, "mfa_required")
    change = await keys.send("PATCH", f"/{made['id']}", networks=[])
    assert_problem(change, 403, "mfa_required")
    await keys.revoke(made["id"])
