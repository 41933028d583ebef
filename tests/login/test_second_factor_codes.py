"""A code follows RFC 6238, is valid for about a minute, works once and cannot be guessed."""

import asyncio
import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy import select

from app.audit.models import Entry
from app.context import RequestContext
from app.credentials.second_factors import code_checks, service
from app.credentials.second_factors.code_checks import BURST, FORGIVEN_AFTER, LoginResult
from app.credentials.second_factors.codes import matching_step
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.credentials.second_factors.service import SecondFactors
from app.database.engine import begin_write
from app.users.models import User
from tests.support.authenticator import (
    STEP,
    Authenticator,
    begin,
    confirm,
    enroll,
    log_in_with,
)
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, assert_problem, register

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.fixture
async def lancelots(client: AsyncClient, clock: Clock) -> Authenticator:
    await register(client, LANCELOT)
    return await enroll(client, LANCELOT, clock)


# After that, no wrong code of before counts.
FORGIVEN = BURST * FORGIVEN_AFTER


async def status_of(client: AsyncClient, otp: str) -> int:
    return (await log_in_with(client, LANCELOT, otp)).status_code


def test_the_codes_of_rfc_6238_appendix_b() -> None:
    """It lists eight digits; the last six of them are the code with six."""
    for seconds, totp in (
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ):
        now = datetime.fromtimestamp(seconds, UTC)
        assert matching_step(RFC_SECRET, totp[-6:], now) == seconds // 30
        assert matching_step(RFC_SECRET, totp[:6], now) == 0


NO_CODES = [
    *(" " * 64, "12345", "1234567", "1" * 10_000, "123456\0", "-12345", "+12345"),
    *("12345a", "0x1234", "1e1234", "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3D0"),
    *(123456, ["123456"], {"otp": "123456"}),
]


@on_sqlite
async def test_which_codes_are_accepted(
    client: AsyncClient,
    app: FastAPI,
    clock: Clock,
    lancelots: Authenticator,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("the clock of a phone may be one step off"):
        for ahead, status in ((-2, 401), (-1, 200), (0, 200), (1, 200), (2, 401)):
            clock.advance(10 * STEP)
            assert await status_of(client, lancelots.code(ahead)) == status, ahead
    clock.advance(FORGIVEN)
    with subtests.test("neither a used code nor an older one is accepted"):
        older, code = lancelots.code(-1), lancelots.code()
        assert await status_of(client, code) == 200
        assert await status_of(client, code) == 401
        assert await status_of(client, older) == 401
        clock.advance(STEP)
        assert await status_of(client, code) == 401
        assert await status_of(client, lancelots.code()) == 200
    clock.advance(FORGIVEN)
    with subtests.test("spaces, hyphens and case do not matter"):
        code = lancelots.code()
        assert await status_of(client, f" {code[:3]} {code[3:]}\t") == 200
        in_full_width = lancelots.next_code().translate({48 + n: 0xFF10 + n for n in range(10)})
        assert await status_of(client, in_full_width) == 200
        in_lower_case, without_hyphens = lancelots.recovery_codes[:2]
        assert await status_of(client, in_lower_case.lower()) == 200
        assert await status_of(client, without_hyphens.replace("-", "")) == 200
    clock.advance(FORGIVEN)
    for otp in NO_CODES:
        with subtests.test(f"an impossible one is rejected before it is compared: {otp!r:.40}"):
            response = await client.post(
                "/token",
                content=json.dumps({**LANCELOT, "otp": otp}),
                headers={"Content-Type": "application/json"},
            )
            (problem,) = assert_problem(response, 422, "invalid_request")["fields"]
            assert problem["field"] == "otp"
            assert "1234" not in response.text
    assert await status_of(client, lancelots.code()) == 200
    clock.advance(FORGIVEN)
    with subtests.test("a wrong one looks like a wrong password"):
        wrong = await log_in_with(client, {**LANCELOT, "password": "guinevere"}, lancelots.code())
        for otp in (lancelots.wrong_code(), "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"):
            response = await log_in_with(client, LANCELOT, otp)
            assert (response.status_code, response.json()) == (wrong.status_code, wrong.json())
            assert response.headers["www-authenticate"] == wrong.headers["www-authenticate"]
    clock.advance(FORGIVEN)
    with subtests.test("one is used up even if the operation that required it fails"):
        code = lancelots.code()
        async with app.state.database.session() as session:
            factors: SecondFactors = app.state.services.second_factors
            proof = (LANCELOT["password"], SecretStr(code))
            await factors.reauthenticate(RequestContext(session, clock()), "user.remove", 2, *proof)
        assert await status_of(client, code) == 401


@on_sqlite
async def test_the_code_that_confirms_cannot_be_guessed_and_does_not_log_in(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    authenticator, token = await begin(client, LANCELOT, clock)
    for _ in range(BURST):
        response = await confirm(client, token, authenticator.wrong_code())
        assert_problem(response, 403, "wrong_code")
    response = await confirm(client, token, authenticator.code())
    assert_problem(response, 429, "too_many_codes")
    clock.advance(FORGIVEN_AFTER)
    authenticator, token = await begin(client, LANCELOT, clock)
    code = authenticator.code()
    assert (await confirm(client, token, code)).status_code == 200
    assert await status_of(client, code) == 401


async def test_one_of_many_simultaneous_uses_of_a_code_logs_in_and_few_guesses_are_compared(
    app: FastAPI, client: AsyncClient, clock: Clock, lancelots: Authenticator
) -> None:
    for code in (lancelots.code(), lancelots.recovery_codes[0]):
        statuses = await asyncio.gather(*(status_of(client, code) for _ in range(BURST)))
        assert sorted(statuses) == [200, *[401] * (BURST - 1)]
    clock.advance(FORGIVEN)
    wrong = lancelots.wrong_code()
    answers = await asyncio.gather(*(answer_to(app, wrong, clock()) for _ in range(4 * BURST)))
    assert Counter(answers) == {
        LoginResult.WRONG_CODE: BURST,
        LoginResult.TOO_MANY_CODES: 3 * BURST,
    }


async def answer_to(app: FastAPI, otp: str, now: datetime, user_id: int = 2) -> LoginResult:
    """Without a login around it, so no other limit applies."""
    factors: SecondFactors = app.state.services.second_factors
    async with app.state.database.session() as session:
        await begin_write(session)
        result = await factors.check(RequestContext(session, now), user_id, SecretStr(otp))
        await session.commit()
        return result


@on_sqlite
async def test_a_code_cannot_be_guessed(
    client: AsyncClient,
    app: FastAPI,
    clock: Clock,
    lancelots: Authenticator,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("the chance in a day is below one in ten thousand"):
        compared, hours = 0, 4
        clock.advance(timedelta(days=30))  # in which nothing is saved up
        for _ in range(hours * 2):
            while (
                answer := await answer_to(app, lancelots.wrong_code(), clock())
            ) is LoginResult.WRONG_CODE:
                compared += 1
            assert answer is LoginResult.TOO_MANY_CODES
            clock.advance(timedelta(minutes=30))
        assert compared == BURST + hours - 1
        assert (BURST + 24 - 1) * 3 / 10**6 < 1 / 10**4
    clock.advance(FORGIVEN)
    with subtests.test("a correct one in between does not help an attacker"):
        for _ in range(BURST - 1):
            assert await status_of(client, lancelots.wrong_code()) == 401
        assert await status_of(client, lancelots.code()) == 200
        assert await status_of(client, lancelots.wrong_code()) == 401
        response = await log_in_with(client, LANCELOT, lancelots.next_code())
        assert_problem(response, 429, "too_many_codes")
        assert response.headers["retry-after"] == "3600"
    with subtests.test("after too many, the user needs a recovery code or has to wait an hour"):
        assert await status_of(client, lancelots.recovery_codes[0]) == 200
        assert await status_of(client, lancelots.code()) == 429
        clock.advance(FORGIVEN_AFTER)
        assert await status_of(client, lancelots.code()) == 200
    clock.advance(FORGIVEN)
    with subtests.test("a correct one resets the count of a hundred"):
        for right in (lancelots.code(), lancelots.recovery_codes[1]):
            assert await status_of(client, lancelots.wrong_code()) == 401
            assert await status_of(client, right) == 200
            async with app.state.database.session() as session:
                assert (await session.scalars(select(SecondFactor.failures))).all() == [0]
    clock.advance(FORGIVEN)
    with subtests.test("after a hundred wrong ones in a row only a recovery code works"):
        assert code_checks.MAX_FAILURES == 100
        monkeypatch.setattr(code_checks, "MAX_FAILURES", 3)
        for _ in range(3):
            assert await answer_to(app, lancelots.wrong_code(), clock()) is LoginResult.WRONG_CODE
            clock.advance(FORGIVEN_AFTER)
        clock.advance(timedelta(days=30))
        assert await status_of(client, lancelots.code()) == 429
        assert await status_of(client, lancelots.recovery_codes[2]) == 200
        assert await status_of(client, lancelots.code()) == 200
    with subtests.test("a user who was just deleted, and one without a second factor"):
        removed, arthur = 4711, 1
        for user_id in (removed, arthur):
            assert await answer_to(app, "123456", clock(), user_id) is LoginResult.WRONG_CODE


@on_postgresql
async def test_a_code_is_checked_while_something_that_refers_to_its_user_is_written(
    app: FastAPI, clock: Clock, lancelots: Authenticator
) -> None:
    async with app.state.database.session() as writing, asyncio.timeout(10):
        await writing.execute(select(User).with_for_update(read=True, key_share=True))
        assert await answer_to(app, lancelots.code(), clock()) is LoginResult.ACCEPTED


async def test_a_recovery_code_works_once_and_only_its_hash_is_stored(
    client: AsyncClient, app: FastAPI, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RECOVERY_CODES", 2)
    await register(client, LANCELOT)
    lancelots = await enroll(client, LANCELOT, clock)
    async with app.state.database.session() as session:
        kept = (await session.scalars(select(RecoveryCode.code_hash))).all()
    assert [len(hash_) for hash_ in kept] == [32] * 2
    for code in lancelots.recovery_codes:
        assert await status_of(client, code) == 200
        assert await status_of(client, code) == 401
    assert_problem(await client.post("/token", json=LANCELOT), 401, "mfa_required")
    async with app.state.database.session() as session:
        recovered = select(Entry.details).where(Entry.action == "second_factor.recover")
        details = (await session.scalars(recovered.order_by(Entry.id))).all()
    assert [json.loads(one) for one in details] == [{"left": "1"}, {"left": "0"}]
