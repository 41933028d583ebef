"""How long failures count, and what deletes the counters."""

from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import delete, func, select

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.main import create_app
from app.maintenance.retention.service import Retention
from app.security.rate_limits import service
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import (
    ACCOUNT,
    ACCOUNT_AT_ADDRESS,
    ADDRESS,
    INVITATION,
    MAILBOX,
    REGISTRATION,
    RESET,
    VERIFICATION,
    Limit,
    Rate,
)
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.service import (
    KNOWN_FOR,
    LOGINS_PER_WRITE,
    Attempt,
    LoginLimiter,
    UnwrittenLogins,
)
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import context_in
from tests.support.login_attempts import (
    ELSEWHERE,
    HOME,
    PROXY,
    SMALL_LIMITS,
    WRONG,
    log_in_at,
    nobody,
    set_small_limits,
    statuses,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, Person, register

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Limit]:
    return set_small_limits(monkeypatch)


def test_the_limits_and_how_long_failures_count() -> None:
    for limit, allowed, window in (
        (ACCOUNT, 5, DAY),
        (ACCOUNT_AT_ADDRESS, 10, DAY),
        (ADDRESS, 20, HOUR),
        (REGISTRATION, 20, HOUR),
        (INVITATION, 10, DAY),
        (RESET, 10, HOUR),
        (MAILBOX, 5, DAY),
        (VERIFICATION, 5, DAY),
    ):
        assert (limit.allowed, limit.window) == (allowed, window), limit.name


async def test_failed_logins_are_forgotten_all_at_once_when_the_window_is_over(
    app: FastAPI, clock: Clock, small_limits: dict[str, Limit], subtests: pytest.Subtests
) -> None:
    numbers = count()

    async def guess(address: str) -> bool:
        account = f"nobody{next(numbers)}" if address == ELSEWHERE else "arthur"
        return await fail(app, address, account)

    assert (await log_in_at(app, HOME, ARTHUR)).status_code == 200
    for address, rule in (
        ("127.0.0.1", small_limits["ACCOUNT"]),
        (HOME, small_limits["ACCOUNT_AT_ADDRESS"]),
        (ELSEWHERE, small_limits["ADDRESS"]),
    ):
        all_free = [True] * rule.allowed + [False]
        assert [await guess(address) for _ in all_free] == all_free
        for is_purged in (False, True):
            with subtests.test(rule.name, is_purged=is_purged):
                for span, expected in (
                    (rule.window - MOMENT, [True, False]),
                    (rule.window, all_free),
                    (rule.window, all_free),
                ):
                    clock.now += span
                    if is_purged:
                        retention = Retention(app.state.database, app.state.settings)
                        assert await retention.run_once()
                    assert [await guess(address) for _ in expected] == expected


async def fail(app: FastAPI, address: str, account: str) -> bool:
    """A login with a wrong password, as the limiter sees it. False if it has to wait."""
    async with app.state.database.session() as session:
        limiter: LoginLimiter = app.state.services.login_limiter
        context = RequestContext(session, app.state.clock(), address)
        try:
            async with limiter.attempt(context, account) as attempt:
                await begin_write(session)
                await attempt.fail()
                await session.commit()
        except TooManyAttemptsError:
            return False
    return True


async def is_allowed(app: FastAPI, subject: str, limit: Limit) -> bool:
    """Counts one more attempt, which succeeds or not."""
    async with app.state.database.session() as session:
        limiter: LoginLimiter = app.state.services.login_limiter
        try:
            await limiter.enforce_limit(context_in(session, app), "what", subject, limit)
        except TooManyAttemptsError:
            return False
    return True


async def test_attempts_that_count_whether_or_not_they_succeed_are_delayed_and_forgotten(
    app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    limit = Limit(2, DAY)
    with subtests.test("each delay is twice the previous one"):
        for _ in range(limit.allowed):
            assert await is_allowed(app, "delays", limit)
        for seconds in (1, 2, 4):
            async with app.state.database.session() as session:
                with pytest.raises(TooManyAttemptsError) as refusal:
                    await app.state.services.login_limiter.enforce_limit(
                        context_in(session, app), "what", "delays", limit
                    )
            assert refusal.value.header_fields() == {"Retry-After": str(seconds)}
            clock.now += SECOND * seconds
            assert await is_allowed(app, "delays", limit)
    with subtests.test("each attempt makes the counter last longer"):
        assert [await is_allowed(app, "lasts", limit) for _ in range(3)] == [True, True, False]
        for _ in range(2):
            clock.now += DAY - SECOND
            assert [await is_allowed(app, "lasts", limit) for _ in range(2)] == [True, False]
    with subtests.test("all are forgotten at once when the window is over"):
        all_free = [True, True, False]
        for span, expected in (
            (timedelta(0), all_free),
            (DAY - MOMENT, [True, False]),
            (DAY, all_free),
        ):
            clock.now += span
            answers = [await is_allowed(app, "forgotten", limit) for _ in expected]
            assert answers == expected


async def test_the_counters_of_sent_mail_are_forgotten_after_a_day(
    app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    async def times(subject: str, limit: Limit) -> int:
        for number in range(4):
            async with app.state.database.session() as session:
                await begin_write(session)
                try:
                    await service.enforce_limit(session, limit.name, subject, limit)
                except TooManyAttemptsError:
                    return number
                await session.commit()
        raise AssertionError

    for limit in (replace(MAILBOX, allowed=2), replace(VERIFICATION, allowed=2)):
        with subtests.test(limit.name):
            assert await times("another", limit) == 2
            assert await times("who", limit) == 2
            clock.now += DAY - MOMENT
            assert await times("who", limit) == 1
            clock.now += DAY
            assert await times("who", limit) == 2


async def test_an_attempt_that_neither_succeeds_nor_fails_is_not_counted(
    app: FastAPI, clock: Clock
) -> None:
    async def attempt(*, is_failure: bool) -> None:
        async with (
            app.state.database.session() as session,
            app.state.services.login_limiter.attempt(
                RequestContext(session, clock(), HOME), "lancelot"
            ) as attempt,
        ):
            await begin_write(session)
            await (attempt.fail() if is_failure else attempt.refund())
            await session.commit()

    for is_failure in (True, True, True, True, False, False, True):  # five failures are allowed
        await attempt(is_failure=is_failure)
    with pytest.raises(TooManyAttemptsError):
        await attempt(is_failure=True)
    for seconds in (1, 2):
        clock.now += SECOND * seconds
        await attempt(is_failure=False)
        await attempt(is_failure=True)
        with pytest.raises(TooManyAttemptsError):
            await attempt(is_failure=True)


@on_sqlite
async def test_a_login_without_a_transaction_leaves_writing_to_a_later_one(app: FastAPI) -> None:
    """A simultaneous login of the account may have made the write due in the meantime."""
    rate, unwritten = Rate.hourly(600), UnwrittenLogins()
    async with app.state.database.session() as session:
        now = await current_time(session)
        attempt = Attempt(session, [], True, None, "key", rate, unwritten, now)
        await session.rollback()
        for _ in range(LOGINS_PER_WRITE + 1):
            await attempt.count_login()
        assert not session.in_transaction()
        await begin_write(session)
        await attempt.count_login()
        await session.commit()
        written = await session.get_one(AttemptCounter, "key")
        first = now - rate.slack
        assert written.blocked_until == first + (LOGINS_PER_WRITE + 2) * rate.interval


def test_attempts_in_progress_are_counted_until_they_end() -> None:
    limiter = LoginLimiter(make_settings("sqlite:///never-opened.db"))
    with limiter._count_concurrent("key") as before_first:
        assert before_first == 0
        for _ in range(2):
            with limiter._count_concurrent("key") as before_second:
                assert before_second == 1
                with limiter._count_concurrent("key") as before_third:
                    assert before_third == 2
    assert len(limiter._in_progress) == 0


@on_sqlite
@pytest.mark.usefixtures("small_limits")
async def test_unlocking_deletes_the_counters_of_the_account_and_the_requested_ones_of_the_address(
    app: FastAPI, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)

    async def is_open(place: str, person: Person) -> bool:
        return (await log_in_at(app, place, person)).status_code != 429

    for address, all_accounts in ((None, False), (HOME, False), ("2001:db8::7", True)):
        with subtests.test(address, all_accounts=all_accounts):
            home = address or HOME
            for at_home in (home, ELSEWHERE):
                assert (await log_in_at(app, at_home, LANCELOT)).status_code == 200
                for _ in range(SMALL_LIMITS["ACCOUNT_AT_ADDRESS"]):  # at a known address
                    assert await fail(app, at_home, "lancelot")
                for number in range(SMALL_LIMITS["ADDRESS"]):
                    assert await fail(app, at_home, f"nobody{number}")
            for account in ("lancelot", "arthur"):
                for _ in range(SMALL_LIMITS["ACCOUNT"]):
                    assert await fail(app, "203.0.113.50", account)
            assert not await is_open("203.0.113.51", LANCELOT)
            async with app.state.database.session() as session:
                await begin_write(session)
                await service.clear(session, "lancelot", address, all_accounts=all_accounts)
                await session.commit()
            assert await is_open("203.0.113.51", WRONG)
            assert not await is_open("203.0.113.52", ARTHUR)
            assert await is_open(home, LANCELOT) == (address is not None)
            assert await is_open(home, nobody(99)) == all_accounts
            assert not await is_open(ELSEWHERE, LANCELOT)
            assert not await is_open(ELSEWHERE, nobody(98))
            async with app.state.database.session() as session:  # for the next case
                await begin_write(session)
                await session.execute(delete(AttemptCounter))
                await session.commit()


async def keys(app: FastAPI) -> set[str]:
    async with app.state.database.session() as session:
        return set(await session.scalars(select(AttemptCounter.key)))


async def test_the_counters_of_a_removed_user_do_not_apply_to_the_next_user_of_the_name(
    app: FastAPI,
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    small_limits: dict[str, Limit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "LOGINS_PER_WRITE", 2)

    async def use(person: Person) -> None:
        for address in (HOME, "2001:db8::1", "127.0.0.1"):  # known from now on
            await log_in_at(app, address, person)
            await log_in_at(app, address, {**person, "password": "wrong"})
        await log_in_at(app, HOME, person)

    await register(client, GALAHAD)
    await use(GALAHAD)
    others = await keys(app)
    lancelot = await register(client, {**LANCELOT, "username": "Lancelot"})
    await use(LANCELOT)
    allowed = small_limits["ACCOUNT"].allowed
    await statuses(app, PROXY, WRONG, allowed)  # the address has a counter that stays
    # Three known addresses, failures at two of them, logins, and failures elsewhere.
    assert len(await keys(app) - others) == 3 + 2 + 1 + 2
    await users.remove(context, lancelot)
    left = await keys(app)
    assert left - others == {service._key("address", PROXY)}
    assert left > others
    await register(client, LANCELOT)
    assert await statuses(app, HOME, WRONG, allowed + 1) == [401] * allowed + [429]  # not known


@on_sqlite
async def test_another_worker_and_the_next_start_know_the_counters(
    settings: Settings, app: FastAPI, clock: Clock
) -> None:
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    other = create_app(settings, clock, clock)
    async with other.router.lifespan_context(other):
        assert (await log_in_at(other, HOME, WRONG)).status_code == 429


async def test_counters_expire_are_bounded_and_contain_no_names_or_addresses(
    app: FastAPI, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Database = app.state.database
    for number in range(3):  # known addresses, which have a limit of their own
        assert (await log_in_at(app, f"192.0.2.{100 + number}", ARTHUR)).status_code == 200
        clock.now += SECOND
    for number in range(3):
        await log_in_at(app, HOME, nobody(number))
        clock.now += SECOND

    async def rows() -> int:
        async with database.session() as session:
            return await session.scalar(select(func.count()).select_from(AttemptCounter)) or 0

    assert not any("nobody" in key or HOME in key for key in await keys(app))
    assert await rows() == 3 + 4
    monkeypatch.setattr(service, "MAX_ROWS", 2)
    retention = Retention(database, settings)
    for span, left in (
        (timedelta(minutes=10), 2 + 2),  # the lock of the previous run has expired
        (DAY, 2),
        (KNOWN_FOR, 0),
    ):
        clock.now += span
        assert await retention.run_once()
        assert await rows() == left
