"""Guessing is slowed down, for everybody alike, and nobody is locked out by somebody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from threading import Semaphore
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import func, select

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.ip_addresses import client_ip_address
from app.main import create_app
from app.retention.service import Retention
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
from tests.support.service_process import two_services
from tests.support.settings import Clock, make_settings
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, Person, assert_problem, register

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
MOMENT = timedelta(microseconds=1)
WRONG = {**LANCELOT, "password": "wrong"}
HOME, ELSEWHERE, PROXY = "192.0.2.7", "198.51.100.9", "203.0.113.1"


@asynccontextmanager
async def at(app: FastAPI, address: str, **headers: str) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app, client=(address, 1))
    url = "http://hourpass.example"
    async with AsyncClient(transport=transport, base_url=url, headers=headers) as client:
        yield client


async def log_in(app: FastAPI, address: str, person: Person, **headers: str) -> Response:
    async with at(app, address, **headers) as client:
        return await client.post("/token", json=dict(person))


async def statuses(app: FastAPI, address: str, person: Person, times: int) -> list[int]:
    return [(await log_in(app, address, person)).status_code for _ in range(times)]


def nobody(number: int) -> Person:
    return {"username": f"nobody{number}", "password": "wrong"}


async def test_delays_grow_and_a_success_ends_them(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    assert await statuses(app, HOME, WRONG, ACCOUNT.allowed) == [401] * ACCOUNT.allowed
    for seconds in (1, 2, 4, 8):
        refused = await log_in(app, HOME, LANCELOT)
        assert_problem(refused, 429, "too_many_attempts")
        assert refused.headers["Retry-After"] == str(seconds)
        clock.now += timedelta(seconds=seconds)
        assert (await log_in(app, HOME, WRONG)).status_code == 401
    clock.now += 16 * SECOND
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    assert await statuses(app, HOME, WRONG, ACCOUNT_AT_ADDRESS.allowed) == [401] * 10
    assert (await log_in(app, HOME, WRONG)).status_code == 429


async def test_an_unchecked_attempt_is_not_counted(
    app: FastAPI, client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, LANCELOT)
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    clock.now += SECOND
    for missing in ({}, {"require_capacity": lambda: None}):  # before or after the charge
        with monkeypatch.context() as meanwhile:
            passwords = app.state.services.passwords
            meanwhile.setattr(passwords, "_capacity", Semaphore(0))
            for name, instead in missing.items():
                meanwhile.setattr(passwords, name, instead)
            for _ in range(3):
                assert (await log_in(app, HOME, LANCELOT)).status_code == 503
    assert (await log_in(app, HOME, WRONG)).status_code == 401
    assert (await log_in(app, HOME, LANCELOT)).headers["Retry-After"] == "2"  # as after six


async def test_the_longest_delay_is_a_quarter_of_an_hour(app: FastAPI, clock: Clock) -> None:
    for _ in range(30):
        while (answer := await log_in(app, HOME, WRONG)).status_code == 429:
            seconds = int(answer.headers["Retry-After"])
            clock.now += timedelta(seconds=seconds)
    assert seconds == 15 * 60


@pytest.mark.parametrize("by_form", [False, True])
async def test_unknown_names_and_known_ones_are_answered_alike(
    app: FastAPI, client: AsyncClient, by_form: bool
) -> None:
    await register(client, LANCELOT)
    answers: dict[str, list[tuple[int, bytes, set[tuple[str, str]]]]] = {}
    for name in ("lancelot", "mordred"):
        async with at(app, HOME if name == "lancelot" else ELSEWHERE) as guesser:
            for _ in range(ACCOUNT.allowed + 2):
                body = {"username": name, "password": "wrong"}
                sent = {"data": body} if by_form else {"json": body}
                answer = await guesser.post("/token", **sent)  # type: ignore[arg-type] # either
                headers = {pair for pair in answer.headers.items() if pair[0] != "x-request-id"}
                told = (answer.status_code, answer.content, headers)
                answers.setdefault(name, []).append(told)
    assert answers["lancelot"] == answers["mordred"]
    assert answers["lancelot"][-1][0] == 429


async def test_an_attack_does_not_slow_down_the_owner_at_a_known_address(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    for number in range(40):
        await log_in(app, f"198.51.100.{number}", WRONG)
    assert (await log_in(app, ELSEWHERE, LANCELOT)).status_code == 429
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    assert (await log_in(app, ELSEWHERE, LANCELOT)).status_code == 429  # that cleared nothing
    clock.now += KNOWN_FOR
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200  # used again in the meantime
    clock.now += timedelta(days=1)
    assert (await log_in(app, ELSEWHERE, LANCELOT)).status_code == 200


async def test_a_success_at_a_known_address_forgets_the_failures_there_and_no_others(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    for person in (ARTHUR, LANCELOT):
        assert (await log_in(app, HOME, person)).status_code == 200
    arthurs = {**ARTHUR, "password": "wrong"}
    assert await statuses(app, HOME, arthurs, 10) == [401] * 10
    for _ in range(2):
        assert await statuses(app, HOME, WRONG, 9) == [401] * 9
        assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    assert (await log_in(app, HOME, ARTHUR)).status_code == 429


async def test_a_known_address_stays_known_for_90_days_after_it_was_used_a_month_later(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    clock.now += 31 * DAY
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    clock.now += 90 * DAY - SECOND
    await statuses(app, ELSEWHERE, WRONG, 6)
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200


async def test_what_is_neither_a_success_nor_a_failure_leaves_the_count_as_it_was(
    app: FastAPI, clock: Clock
) -> None:
    async def attempt(*, is_failure: bool) -> None:
        async with (
            app.state.database.session() as session,
            app.state.services.login_limiter.attempt(
                RequestContext(session, clock(), HOME), "lancelot"
            ) as under_way,
        ):
            await begin_write(session)
            await (under_way.fail() if is_failure else under_way.refund())
            await session.commit()

    for is_failure in (True, True, True, True, False, False, True):  # five of the free ones
        await attempt(is_failure=is_failure)
    with pytest.raises(TooManyAttemptsError):
        await attempt(is_failure=True)
    for seconds in (1, 2):
        clock.now += SECOND * seconds
        await attempt(is_failure=False)
        await attempt(is_failure=True)
        with pytest.raises(TooManyAttemptsError):
            await attempt(is_failure=True)


async def test_a_login_that_was_not_announced_as_writing_writes_nothing(app: FastAPI) -> None:
    """Another one of the account may have made it the one that is written down."""
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


def test_unfinished_attempts_are_counted_until_they_end(settings: Settings) -> None:
    throttle = LoginLimiter(settings)
    with throttle._count_concurrent("key") as before_first:
        assert before_first == 0
        for _ in range(2):
            with throttle._count_concurrent("key") as before_second:
                assert before_second == 1
                with throttle._count_concurrent("key") as before_third:
                    assert before_third == 2
    assert len(throttle._in_progress) == 0


async def test_beyond_the_free_ones_what_counts_in_any_case_waits_twice_as_long_each_time(
    app: FastAPI, clock: Clock
) -> None:
    async def count() -> None:
        async with app.state.database.session() as session:
            await app.state.services.login_limiter.enforce_limit(
                context_in(session, app), "what", "who", Limit(2, DAY)
            )

    for _ in range(2):
        await count()
    for seconds in (1, 2, 4):
        with pytest.raises(TooManyAttemptsError) as refusal:
            await count()
        assert refusal.value.header_fields() == {"Retry-After": str(seconds)}
        clock.now += SECOND * seconds
        await count()


async def test_a_failure_beyond_the_free_ones_is_remembered_for_as_long_as_any_other(
    app: FastAPI, clock: Clock
) -> None:
    async def is_let_through() -> bool:
        async with app.state.database.session() as session:
            try:
                await app.state.services.login_limiter.enforce_limit(
                    context_in(session, app), "what", "who", Limit(2, DAY)
                )
            except TooManyAttemptsError:
                return False
        return True

    assert [await is_let_through() for _ in range(3)] == [True, True, False]
    for _ in range(2):
        clock.now += DAY - SECOND
        assert [await is_let_through() for _ in range(2)] == [True, False]


async def test_simultaneous_requests_for_mail_are_counted_one_after_another(
    app: FastAPI,
) -> None:
    async def ask() -> bool:
        async with app.state.database.session() as session:
            await begin_write(session)
            try:
                await service.enforce_limit(session, "what", "who", Limit(5, DAY))
            except TooManyAttemptsError:
                return False
            await session.commit()
            return True

    assert await ask()
    assert (await asyncio.gather(*(ask() for _ in range(20)))).count(True) == 4


@pytest.mark.parametrize(
    ("address", "all_accounts"), [(None, False), (HOME, False), ("2001:db8::7", True)]
)
async def test_what_is_cleared_is_the_accounts_own_and_of_the_address_what_was_asked_for(
    app: FastAPI, client: AsyncClient, address: str | None, *, all_accounts: bool
) -> None:
    await register(client, LANCELOT)
    home = address or HOME
    for at_home in (home, ELSEWHERE):
        assert (await log_in(app, at_home, LANCELOT)).status_code == 200
        await statuses(app, at_home, WRONG, 10)  # at a known address
        for number in range(20):
            await log_in(app, at_home, nobody(number))
    for person in (WRONG, {**ARTHUR, "password": "wrong"}):
        await statuses(app, "203.0.113.50", person, 5)
    assert (await log_in(app, "203.0.113.51", LANCELOT)).status_code == 429
    async with app.state.database.session() as session:
        await begin_write(session)
        await service.clear(session, "lancelot", address, all_accounts=all_accounts)
        await session.commit()

    async def is_open(place: str, person: Person) -> bool:
        return (await log_in(app, place, person)).status_code != 429

    assert await is_open("203.0.113.51", WRONG)
    assert not await is_open("203.0.113.52", ARTHUR)
    assert await is_open(home, LANCELOT) == (address is not None)
    assert await is_open(home, nobody(99)) == all_accounts
    assert not await is_open(ELSEWHERE, LANCELOT)
    assert not await is_open(ELSEWHERE, nobody(98))


async def test_failures_at_one_known_address_do_not_count_at_another(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    for address in (HOME, ELSEWHERE):
        assert (await log_in(app, address, LANCELOT)).status_code == 200
    await statuses(app, HOME, WRONG, ACCOUNT_AT_ADDRESS.allowed)
    assert (await log_in(app, HOME, LANCELOT)).status_code == 429
    assert (await log_in(app, ELSEWHERE, LANCELOT)).status_code == 200


async def test_an_address_that_tries_many_names_is_slowed_down_and_owning_one_does_not_help(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    for number in range(ADDRESS.allowed):
        assert (await log_in(app, HOME, nobody(number))).status_code == 401
    assert (await log_in(app, HOME, nobody(99))).status_code == 429
    assert (await log_in(app, ELSEWHERE, nobody(99))).status_code == 401
    clock.now += SECOND
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    clock.now += SECOND
    assert (await log_in(app, HOME, nobody(98))).status_code == 401
    assert (await log_in(app, HOME, nobody(97))).status_code == 429
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200  # where it is known by now
    clock.now += ADDRESS.window
    assert (await log_in(app, HOME, nobody(97))).status_code == 401


@pytest.mark.parametrize("is_swept", [False, True], ids=["still stored", "purged"])
@pytest.mark.parametrize(
    ("address", "rule"),
    [
        pytest.param("127.0.0.1", Limit(5, DAY), id="account"),
        pytest.param(HOME, Limit(10, DAY), id="account at a known address"),
        pytest.param(ELSEWHERE, Limit(20, HOUR), id="address"),
    ],
)
async def test_failures_are_forgotten_as_a_whole_and_not_a_moment_too_soon(
    app: FastAPI, clock: Clock, address: str, rule: Limit, *, is_swept: bool
) -> None:
    free, memory = rule.allowed, rule.window
    assert (await log_in(app, HOME, ARTHUR)).status_code == 200
    numbers = count()

    async def guess() -> int:
        wrong = {**ARTHUR, "password": "wrong"}
        person = nobody(next(numbers)) if address == ELSEWHERE else wrong
        return (await log_in(app, address, person)).status_code

    async def come_back_after(span: timedelta) -> list[int]:
        clock.now += span
        if is_swept:
            assert await Retention(app.state.database, app.state.settings).run_once()
        return [await guess() for _ in range(free + 1)]

    all_free = [401] * free + [429]
    assert [await guess() for _ in range(free + 1)] == all_free
    assert await come_back_after(memory - MOMENT) == [401] + [429] * free
    assert await come_back_after(memory) == all_free
    assert await come_back_after(memory) == all_free


@pytest.mark.parametrize(
    ("rule", "free", "memory"),
    [
        pytest.param(REGISTRATION, 20, HOUR, id="registrations"),
        pytest.param(INVITATION, 10, DAY, id="registrations by an invitation"),
        pytest.param(RESET, 10, HOUR, id="asking for a new password"),
    ],
)
async def test_what_counts_in_any_case_is_forgotten_as_a_whole(
    app: FastAPI, clock: Clock, rule: Limit, free: int, memory: timedelta
) -> None:
    async def times() -> int:
        """How often it works until it has to wait."""
        for number in range(free + 2):
            async with app.state.database.session() as session:
                try:
                    await app.state.services.login_limiter.enforce_limit(
                        context_in(session, app), "what", "who", rule
                    )
                except TooManyAttemptsError:
                    return number
        raise AssertionError

    assert await times() == free
    clock.now += memory - MOMENT
    assert await times() == 1
    clock.now += memory
    assert await times() == free


@pytest.mark.parametrize("rule", [MAILBOX, VERIFICATION], ids=["mailbox", "verification"])
async def test_the_counts_of_sent_mail_are_deleted_after_a_day(
    app: FastAPI, clock: Clock, rule: Limit
) -> None:
    async def times(who: str = "who") -> int:
        for number in range(7):
            async with app.state.database.session() as session:
                await begin_write(session)
                try:
                    await service.enforce_limit(session, "what", who, rule)
                except TooManyAttemptsError:
                    return number
                await session.commit()
        raise AssertionError

    assert await times("another") == 5
    assert await times() == 5
    clock.now += DAY - MOMENT
    assert await times() == 1
    clock.now += DAY
    assert await times() == 5


async def keys(app: FastAPI) -> set[str]:
    async with app.state.database.session() as session:
        return set(await session.scalars(select(AttemptCounter.key)))


async def test_the_counters_of_a_removed_name_are_not_those_of_the_next_user(
    app: FastAPI, client: AsyncClient, users: Users, context: RequestContext
) -> None:
    async def use(person: Person) -> None:
        for address in (HOME, ELSEWHERE, "2001:db8::1", "127.0.0.1"):  # known from now on
            await log_in(app, address, person)
            await log_in(app, address, {**person, "password": "wrong"})
        for _ in range(2 * LOGINS_PER_WRITE):
            await log_in(app, HOME, person)

    await register(client, GALAHAD)
    await use(GALAHAD)
    others = await keys(app)
    lancelot = await register(client, {**LANCELOT, "username": "Lancelot"})
    await use(LANCELOT)
    await statuses(app, PROXY, WRONG, ACCOUNT.allowed)  # the address has a counter that stays
    # Four known addresses, failures at three of them, logins, and failures elsewhere.
    assert len(await keys(app) - others) == 4 + 3 + 1 + 2
    await users.remove(context, lancelot)
    left = await keys(app)
    assert left - others == {service._key("address", PROXY)}
    assert left > others
    await register(client, LANCELOT)
    assert await statuses(app, HOME, WRONG, ACCOUNT.allowed + 1) == [401] * 5 + [429]  # not known


async def test_a_success_at_one_address_leaves_the_delay_of_another(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    for address in (HOME, ELSEWHERE):
        for number in range(ADDRESS.allowed):
            await log_in(app, address, nobody(number))
    clock.now += SECOND
    assert (await log_in(app, ELSEWHERE, nobody(98))).status_code == 401
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    assert (await log_in(app, ELSEWHERE, nobody(99))).status_code == 429


async def test_ipv6_counts_by_the_first_64_bits(app: FastAPI) -> None:
    for number in range(ADDRESS.allowed):
        await log_in(app, f"2001:db8::{number:x}", nobody(number))
    assert (await log_in(app, "2001:db8::ffff:1", nobody(99))).status_code == 429
    assert (await log_in(app, "2001:db8:0:1::1", nobody(99))).status_code == 401


async def test_this_machine_has_no_count_of_its_own_but_accounts_have(app: FastAPI) -> None:
    for number in range(2 * ADDRESS.allowed):
        assert (await log_in(app, "127.0.0.1", nobody(number))).status_code == 401
    assert (await statuses(app, "127.0.0.1", WRONG, ACCOUNT.allowed + 1))[-1] == 429


async def test_a_restart_and_another_worker_know_the_counts(
    settings: Settings, app: FastAPI, clock: Clock
) -> None:
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    other = create_app(settings, clock, clock)
    async with other.router.lifespan_context(other):
        assert (await log_in(other, HOME, WRONG)).status_code == 429


async def test_few_of_many_simultaneous_guesses_are_checked(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    async with at(app, HOME) as guesser:
        guesses = (guesser.post("/token", json=WRONG) for _ in range(50))
        answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert answers.count(401) == ACCOUNT.allowed
    assert answers.count(429) == 50 - ACCOUNT.allowed


async def test_earlier_failures_count_for_simultaneous_guesses_too(
    app: FastAPI,
) -> None:
    assert await statuses(app, HOME, WRONG, 3) == [401] * 3
    async with at(app, ELSEWHERE) as guesser:
        guesses = (guesser.post("/token", json=WRONG) for _ in range(50))
        answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert answers.count(401) == 2


async def test_few_of_many_simultaneous_guesses_on_two_workers_are_checked(
    database_url: str,
) -> None:
    with two_services(database_url) as urls:
        limits = httpx.Limits(max_connections=40)
        async with AsyncClient(limits=limits, timeout=60) as client:
            guesses = (client.post(f"{urls[n % 2]}/token", json=WRONG) for n in range(40))
            answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
            assert answers.count(401) == ACCOUNT.allowed
            assert answers.count(401) + answers.count(429) == 40


async def test_after_the_free_attempts_one_of_many_at_once_is_checked(
    app: FastAPI, clock: Clock
) -> None:
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    clock.now += SECOND
    async with at(app, ELSEWHERE) as guesser:
        guesses = (guesser.post("/token", json=WRONG) for _ in range(50))
        answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert answers.count(401) == 1


async def test_registrations_are_counted_by_address(app: FastAPI, clock: Clock) -> None:
    async with at(app, HOME) as client:
        answers = [
            (await client.post("/register-user", json={**GALAHAD, "username": name})).status_code
            for name in [*(f"galahad{number}" for number in range(10)), *["galahad0"] * 11]
        ]
        assert answers == [201] * 10 + [409] * 10 + [429]
        assert REGISTRATION.allowed == 20
        clock.now += REGISTRATION.window
        assert (await client.post("/register-user", json=GALAHAD)).status_code == 201


async def test_what_is_kept_is_forgotten_bounded_and_in_no_clear_text(
    app: FastAPI, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Database = app.state.database
    for number in range(6):  # known addresses, which make room for each other alone
        assert (await log_in(app, f"192.0.2.{100 + number}", ARTHUR)).status_code == 200
        clock.now += SECOND
    for number in range(9):
        await log_in(app, HOME, nobody(number))
        clock.now += SECOND

    async def rows() -> int:
        async with database.session() as session:
            return await session.scalar(select(func.count()).select_from(AttemptCounter)) or 0

    async with database.session() as session:
        keys = (await session.scalars(select(AttemptCounter.key))).all()
    assert not any("nobody" in key or HOME in key for key in keys)
    assert await rows() == 6 + 10
    monkeypatch.setattr(service, "MAX_ROWS", 4)
    housekeeping = Retention(database, settings)
    clock.now += timedelta(minutes=10)  # until the service's own lease is over
    assert await housekeeping.run_once()
    assert await rows() == 4 + 4
    clock.now += timedelta(days=1)
    assert await housekeeping.run_once()
    assert await rows() == 4
    clock.now += KNOWN_FOR
    assert await housekeeping.run_once()
    assert await rows() == 0


TRUSTED = make_settings(
    "sqlite:///x.db", trusted_proxies=f"{PROXY}, 10.0.0.0/8,::1"
).trusted_proxies


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (HOME, [], HOME),
        (HOME, ["1.2.3.4"], HOME),  # a stranger's word
        (PROXY, [], PROXY),
        (PROXY, [HOME], HOME),
        (PROXY, ["1.2.3.4, " + HOME], HOME),
        (PROXY, ["1.2.3.4", HOME], HOME),
        (PROXY, [HOME + ", 10.1.2.3"], HOME),
        (PROXY, ["10.9.9.9"], "10.9.9.9"),
        (PROXY, ["junk"], PROXY),
        (PROXY, [HOME + ", junk"], PROXY),
        (PROXY, ["", ","], PROXY),
        (PROXY, [HOME + ":4711"], HOME),
        (PROXY, ["[2001:db8::1]:4711"], "2001:db8::1"),
        (PROXY, ["::ffff:" + HOME], HOME),
        (f"::ffff:{PROXY}", [HOME], HOME),
        ("::1", [HOME], HOME),
        ("fe80::1%eth0", [], "fe80::1"),
        ("", [HOME], HOME),  # a Unix socket
        ("", [], ""),
        (PROXY, [", ".join([HOME] + ["10.0.0.1"] * 20)], "10.0.0.1"),
    ],
)
def test_the_address_is_the_first_one_that_is_not_a_proxy(
    peer: str, forwarded: list[str], address: str
) -> None:
    assert client_ip_address(peer, forwarded, TRUSTED) == address


@pytest.mark.parametrize("forwarded", [[HOME], [f"1.2.3.4, {HOME}"]])
def test_only_listed_proxies_are_trusted(forwarded: list[str]) -> None:
    assert client_ip_address(PROXY, forwarded, ()) == PROXY
    assert client_ip_address("", forwarded, ()) == ""


async def test_behind_a_proxy_addresses_are_told_apart(database_url: str, clock: Clock) -> None:
    app = create_app(make_settings(database_url, trusted_proxies=PROXY), clock, clock)
    async with app.router.lifespan_context(app):
        for number in range(ADDRESS.allowed):
            await log_in(
                app, PROXY, nobody(number), **{"X-Forwarded-For": f"1.2.3.{number}, {HOME}"}
            )
        last: dict[str, Any] = {"X-Forwarded-For": f"1.1.1.1, {HOME}"}
        assert (await log_in(app, PROXY, nobody(98), **last)).status_code == 429
        last = {"X-Forwarded-For": ELSEWHERE}
        assert (await log_in(app, PROXY, nobody(98), **last)).status_code == 401


async def test_the_command_line_can_unlock_a_user(app: FastAPI, client: AsyncClient) -> None:
    await register(client, LANCELOT)
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    assert (await log_in(app, HOME, LANCELOT)).status_code == 429
    async with app.state.database.session() as session:
        await begin_write(session)
        await service.clear(session, "lancelot", None)
        await session.commit()
    assert (await log_in(app, HOME, LANCELOT)).status_code == 200
    assert (await log_in(app, HOME, ARTHUR)).status_code == 200
