"""Codes are too long to be guessed. The shorter codes of earlier versions still work."""

import base64
from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import update

from app.credentials.second_factors import service
from app.credentials.second_factors.models import RecoveryCode
from app.database.engine import begin_write
from app.security.one_time_codes import text
from app.security.one_time_codes.models import Code
from tests.support.authenticator import enroll, log_in_with
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, bearer, log_in, register

OLD = "MFRG-G2DF-MZTW-Q2LK"
NEW_PASSWORD = "guinevere in the garden"

pytestmark = on_sqlite


async def make_old(app: FastAPI, table: type[Code | RecoveryCode]) -> None:
    """As if the only code in the table had been made by an earlier version."""
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(table).values(code_hash=text.hash_code(text.parse_code(OLD))))
        await session.commit()


def bits_of(code: str) -> int:
    return len(base64.b32decode(text.parse_code(code))) * 8


async def test_the_length_of_codes(
    client: AsyncClient, clock: Clock, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    recovery_codes = (await enroll(client, LANCELOT, clock)).recovery_codes
    with subtests.test("64 characters may be typed"):
        recovery_code, *_ = recovery_codes
        assert (await log_in_with(client, LANCELOT, recovery_code.ljust(65))).status_code == 422
        assert (await log_in_with(client, LANCELOT, recovery_code.ljust(64))).status_code == 200
        path = f"/users/{user_id}/password-reset"
        code = (await client.post(path, headers=bearer(arthurs_token))).json()["code"]
        for length, status in [(65, 422), (64, 200)]:
            reset = {"code": code.ljust(length), "new_password": NEW_PASSWORD}
            answer = await client.post("/password-resets/confirm", json=reset)
            assert answer.status_code == status
    with subtests.test("every kind has 112 random bits or more"):
        headers = bearer(arthurs_token)
        forced = await client.post(f"/users/{user_id}/password-reset", headers=headers)
        invitation = await client.post("/invitations", json={}, headers=headers)
        codes = [*recovery_codes, forced.json()["code"], invitation.json()["code"]]
        assert {bits_of(code) for code in codes} == {120}
        assert len({code[:4] for code in codes}) > 1
    with subtests.test("a code of another length is invalid"):
        for length in (0, 15, 17, 20, 23, 25, 32):
            reset = {"code": "A" * length, "new_password": NEW_PASSWORD}
            refused = await client.post("/password-resets/confirm", json=reset)
            (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
            assert field["field"] == "code", length


async def test_an_older_code_works_once(
    client: AsyncClient,
    app: FastAPI,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    user_id = await register(client, LANCELOT)
    arthurs_token = await log_in(client, ARTHUR)
    with subtests.test("to reset a password"):
        await client.post(f"/users/{user_id}/password-reset", headers=bearer(arthurs_token))
        await make_old(app, Code)
        reset = {"code": OLD, "new_password": NEW_PASSWORD}
        assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200
        again = await client.post("/password-resets/confirm", json=reset)
        assert_problem(again, 403, "invalid_code")
    with subtests.test("to register"):
        await client.post("/invitations", json={}, headers=bearer(arthurs_token))
        await make_old(app, Code)
        await register(client, {**GALAHAD, "invitation": OLD})
        bors = {**GALAHAD, "username": "bors"}
        again = await client.post("/register-user", json={**bors, "invitation": OLD})
        assert_problem(again, 403, "invalid_code")
    with subtests.test("a recovery code"):
        monkeypatch.setattr(service, "RECOVERY_CODES", 1)
        lancelot = {**LANCELOT, "password": NEW_PASSWORD}
        await enroll(client, lancelot, clock)
        await make_old(app, RecoveryCode)
        clock.advance(timedelta(days=1000))
        assert (await log_in_with(client, lancelot, OLD.lower())).status_code == 200
        assert_problem(await log_in_with(client, lancelot, OLD), 401, "invalid_grant")
