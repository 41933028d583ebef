"""Signing keys rotate without a failed request: a key is published before it signs, and verifies
until its last token has expired. A stolen key can be revoked at once."""

import asyncio
import base64
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event, text

from app.background_jobs import BackgroundJobs
from app.cli.main import main as hourpass
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD
from app.settings import Settings
from app.tokens import key_refresher
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import RevocationCache
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.rotation import KeyRotation
from app.tokens.signing_keys.store import KeyNotFoundError, KeyStore
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import CHEAP_HASHING, Clock, make_settings, utc_now
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    comes_to_an_end,
    kid_of,
    log_in,
    register,
    revoked,
    token_holds,
)
from tests.support.waiting import until

pytestmark = pytest.mark.first_start

ANNOUNCED = timedelta(seconds=600)
LIFETIME = timedelta(minutes=60)
CLOCK_SKEW = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def by_nobody(kid: str = "0123456789abcdef") -> str:
    """A token with a key that never existed."""
    header = json.dumps({"alg": "ES256", "kid": kid, "typ": "at+jwt"}, separators=(",", ":"))
    return base64.urlsafe_b64encode(header.encode()).decode().rstrip("=") + ".e30.e30"


async def rotate(database: Database, settings: Settings, clock: Callable[[], datetime]) -> str:
    async with database.session() as session:
        return await KeyStore(settings).rotate(RequestContext(session, clock()))


async def stored(database: Database, settings: Settings, clock: Clock) -> list[str]:
    async with database.session() as session:
        return [
            key.kid
            for key in (await KeyStore(settings).load(RequestContext(session, clock()))).keys
        ]


async def revoke(kid: str, database: Database, settings: Settings, clock: Clock) -> None:
    async with database.session() as session:
        await begin_write(session)
        await KeyStore(settings).revoke(RequestContext(session, clock()), kid)
        await session.commit()


async def refresh_keys(client: AsyncClient, clock: Clock) -> None:
    """Workers read the keys every second, and at once if a token has an unknown key."""
    clock.advance(SECOND)
    assert not await token_holds(client, by_nobody())


async def published(client: AsyncClient) -> list[str]:
    return [key["kid"] for key in (await client.get("/.well-known/jwks.json")).json()["keys"]]


@pytest.fixture
def command(database_url: str) -> Callable[..., str]:
    """`command("rotate")` is `hourpass signing-keys rotate` on this test's database. Returns its
    output."""

    def run(*arguments: str, exit_code: int = 0, **settings: str) -> str:
        variables = {"DATABASE_URL": database_url, **CHEAP_HASHING, **settings}
        result = CliRunner().invoke(hourpass, ["signing-keys", *arguments], env=variables)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


async def test_a_new_key_is_published_at_once_and_signs_once_every_cache_can_know_it(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    (old,) = await published(client)
    etag = (await client.get("/.well-known/jwks.json")).headers["etag"]
    new = await rotate(app.state.database, app.state.settings, clock)
    await refresh_keys(client, clock)
    assert await published(client) == [old, new]
    response = await client.get("/.well-known/jwks.json", headers={"If-None-Match": etag})
    assert response.status_code == 200
    clock.advance(ANNOUNCED - 2 * SECOND)
    last_of_old = await log_in(client, LANCELOT)
    assert kid_of(last_of_old) == old
    clock.advance(SECOND)
    first_of_new = await log_in(client, LANCELOT)
    assert kid_of(first_of_new) == new
    assert await token_holds(client, last_of_old)
    assert await token_holds(client, first_of_new)


async def test_an_old_key_verifies_until_its_last_token_has_expired_and_is_then_deleted(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    database, settings = app.state.database, app.state.settings
    await register(client, LANCELOT)
    (old,) = await published(client)
    new = await rotate(database, settings, clock)
    clock.advance(ANNOUNCED - SECOND)
    last = await log_in(client, LANCELOT)
    clock.advance(LIFETIME - 2 * SECOND)
    await refresh_keys(client, clock)
    assert kid_of(last) == old
    assert await token_holds(client, last), "this is its last second"
    assert await published(client) == [old, new]
    clock.advance(CLOCK_SKEW - SECOND)
    await refresh_keys(client, clock)
    assert await published(client) == [old, new], "another host's clock may be that far behind"
    clock.advance(SECOND)
    await refresh_keys(client, clock)
    assert await published(client) == [new]
    clock.advance(LOCK_PERIOD)
    assert await KeyRotation(database, KeyStore(settings)).run_once()
    async with database.session() as session:
        kids = await session.scalars(text("SELECT kid FROM signing_keys"))
        assert kids.all() == [new]


async def test_no_key_is_created_while_an_announced_one_does_not_sign_yet(
    database: Database, settings: Settings, clock: Clock
) -> None:
    first = await stored(database, settings, clock)
    next_one = await rotate(database, settings, clock)
    clock.advance(ANNOUNCED - SECOND)
    assert await rotate(database, settings, clock) == next_one
    assert await stored(database, settings, clock) == [*first, next_one]
    clock.advance(SECOND)
    assert await rotate(database, settings, clock) != next_one


async def test_without_any_key_a_rotation_creates_the_first_one(
    database: Database, settings: Settings, clock: Clock
) -> None:
    assert await KeyRotation(database, KeyStore(settings)).run_once()
    first = await rotate(database, settings, clock)
    assert await stored(database, settings, clock) == [first]


async def test_revoking_a_key_creates_another_one_only_if_it_was_the_newest(
    database: Database, settings: Settings, clock: Clock
) -> None:
    at_once = make_settings(settings.database_url, key_announce_seconds=0)
    (first,) = await stored(database, at_once, clock)
    second = await rotate(database, at_once, clock)
    third = await rotate(database, at_once, clock)
    await revoke(second, database, at_once, clock)
    assert await stored(database, at_once, clock) == [first, third]
    await revoke(third, database, at_once, clock)
    kept, fourth = await stored(database, at_once, clock)
    assert kept == first
    assert fourth not in (second, third)


async def test_keys_are_in_the_order_in_which_they_were_created(
    database: Database, settings: Settings, clock: Clock
) -> None:
    (first,) = await stored(database, settings, clock)
    second = await rotate(database, settings, clock)
    async with database.session() as session:
        await begin_write(session)  # PostgreSQL puts a row that was changed behind the others
        await session.execute(text("UPDATE signing_keys SET kid = kid WHERE generation = 1"))
        await session.commit()
        assert await stored(database, settings, clock) == [first, second]
        await begin_write(session)
        assert await KeyStore(settings).revoke_all(RequestContext(session, clock())) == [
            first,
            second,
        ]


async def test_keys_that_are_known_are_not_built_again(
    database: Database, settings: Settings, clock: Clock
) -> None:
    async with database.session() as session:
        store, context = KeyStore(settings), RequestContext(session, clock())
        known = await store.load(context)
        assert await store.read(context, known) is known
        await rotate(database, settings, clock)
        later = await store.read(context, known)
    assert later.keys[0] is known.keys[0]
    assert len(later.keys) == 2


async def test_refreshing_the_keys_keeps_the_shared_secret(
    settings: Settings, clock: Clock
) -> None:
    secret = "only the knights of the round table know it"
    hs256 = make_settings(settings.database_url, signing_algorithm="HS256", hs256_secret=secret)
    async with started_client(hs256, clock) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        await refresh_keys(client, clock)
        assert await token_holds(client, token)


async def test_simultaneous_rotations_create_one_key(
    database: Database, settings: Settings, clock: Clock
) -> None:
    first = await stored(database, settings, clock)
    hosts = [Database(settings, clock) for _ in range(6)]
    try:
        kids = await asyncio.gather(*(rotate(host, settings, clock) for host in hosts))
    finally:
        await asyncio.gather(*(host.close() for host in hosts))
    assert len(set(kids)) == 1
    assert await stored(database, settings, clock) == [*first, kids[0]]


async def test_keys_rotate_on_schedule_unless_it_is_switched_off(
    database: Database, settings: Settings, clock: Clock
) -> None:
    never = make_settings(settings.database_url, key_rotation_days=0)
    first = await stored(database, settings, clock)
    day = timedelta(days=1)
    for elapsed, by, count in [
        (90 * day - LOCK_PERIOD, settings, 1),
        (LOCK_PERIOD, never, 1),
        (LOCK_PERIOD, settings, 2),
        (LOCK_PERIOD, settings, 2),
        (LIFETIME + ANNOUNCED + CLOCK_SKEW, settings, 1),  # the first one is deleted
        (89 * day, settings, 1),
        (day, settings, 2),
    ]:
        clock.advance(elapsed)
        assert await KeyRotation(database, KeyStore(by)).run_once()
        assert len(await stored(database, settings, clock)) == count
    assert first[0] not in await stored(database, settings, clock)


@pytest.mark.locked_jobs
async def test_a_rotation_by_schedule_is_in_the_audit_log(settings: Settings, clock: Clock) -> None:
    async with started_client(settings, clock) as client:
        (first,) = await published(client)
    clock.advance(timedelta(days=90))
    async with started_client(settings, clock) as client, asyncio.timeout(5):
        headers = bearer(await log_in(client, ARTHUR))

        async def rotations() -> list[dict[str, Any]]:
            found = await client.get("/audit?action=key.rotate", headers=headers)
            entries: list[dict[str, Any]] = found.json()["entries"]
            return entries

        while not (entries := await rotations()):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)
        await refresh_keys(client, clock)
        (kid,) = {*await published(client)} - {first}
        assert [(entry["actor_id"], entry["details"]) for entry in entries] == [
            (None, {"kid": kid})
        ]


async def test_with_hs256_the_operator_changes_the_key(
    database: Database, settings: Settings, clock: Clock, command: Callable[..., str]
) -> None:
    secret = "only the knights of the round table know it"
    hs256 = make_settings(settings.database_url, signing_algorithm="HS256", hs256_secret=secret)
    await stored(database, settings, clock)  # from before, and old enough for the next one
    with pytest.raises(KeyNotFoundError, match="Change that instead"):
        await rotate(database, hs256, clock)
    clock.advance(timedelta(days=1000))
    assert await KeyRotation(database, KeyStore(hs256)).run_once()
    settings_of_operator = {"SIGNING_ALGORITHM": "HS256", "HS256_SECRET": secret}
    for arguments, text_ in [
        (["rotate"], "Error: With HS256 the key is HS256_SECRET. Change that instead.\n"),
        (["revoke", "5f0c1d2e3a4b5c6d", "--yes"], "Error: There is no key 5f0c1d2e3a4b5c6d.\n"),
    ]:
        run = partial(command, *arguments, exit_code=1, **settings_of_operator)
        assert await asyncio.to_thread(run) == text_
    run = partial(command, "list", **settings_of_operator)
    listed = await asyncio.to_thread(run)
    assert "HS256" in listed
    assert secret not in listed


def test_the_former_commands_print_as_before_and_do_not_ask(database_url: str) -> None:
    def printed(*arguments: str) -> str:
        variables = {"DATABASE_URL": database_url, **CHEAP_HASHING}
        result = CliRunner().invoke(hourpass, ["keys", *arguments], env=variables)
        assert result.exit_code == 0, result.output
        return result.output

    mark, old, algorithm = printed("list").split()[:3]
    assert (mark, algorithm) == ("*", "ES256")
    new = printed("rotate").removeprefix("The next key is ").rstrip(".\n")
    first, second = printed("list").splitlines()
    assert first.startswith(f"* {old}  ES256  signs from 2")
    assert second.startswith(f"  {new}  ES256  signs from 2")
    assert printed("revoke", old) == f"Revoked {old}.\n"
    assert printed("list").startswith(f"* {new} ")


def test_the_command_line_lists_rotates_and_revokes(command: Callable[..., str]) -> None:
    old, algorithm, status = command("list").splitlines()[1].split()[:3]
    assert (algorithm, status) == ("ES256", "signing")
    new = command("rotate").removeprefix("The next key is ").rstrip(".\n")
    assert command("rotate") == f"The next key is {new}.\n"
    _, first, second = command("list").splitlines()
    assert first.split()[:3] == [old, "ES256", "signing"]
    assert second.split()[:3] == [new, "ES256", "announced"]
    assert command("revoke", old, "--yes") == f"Revoked {old}.\n"
    (listed,) = command("list", "--json").splitlines()
    assert (json.loads(listed)["kid"], json.loads(listed)["status"]) == (new, "signing")
    assert command("revoke", old, "--yes", exit_code=1) == f"Error: There is no key {old}.\n"
    assert command("revoke", new, "--yes") == f"Revoked {new}.\n"
    third, _, status = command("list").splitlines()[1].split()[:3]
    assert status == "signing"
    assert third not in (old, new)


async def test_revoking_the_current_key_revokes_its_tokens_everywhere_and_another_key_signs(
    settings: Settings, command: Callable[..., str]
) -> None:
    async with (
        started_client(settings, utc_now) as here,
        started_client(settings, utc_now) as there,
    ):
        await register(here, LANCELOT)
        stolen = await log_in(here, LANCELOT)
        assert await token_holds(there, stolen)
        await asyncio.to_thread(command, "revoke", kid_of(stolen), "--yes")
        assert await comes_to_an_end(here, stolen)
        assert await comes_to_an_end(there, stolen)
        assert await revoked(there) == [f"kid:{kid_of(stolen)}"]
        for one, other in [(here, there), (there, here)]:
            await token_holds(one, by_nobody())
            fresh = await log_in(one, LANCELOT)
            assert kid_of(fresh) != kid_of(stolen)
            assert await token_holds(one, fresh)
            assert await token_holds(other, fresh)
        assert await published(here) == await published(there) == [kid_of(fresh)]


async def test_a_token_of_a_key_that_another_worker_just_created_is_checked_again(
    settings: Settings, clock: Clock
) -> None:
    at_once = make_settings(settings.database_url, key_announce_seconds=0)
    async with started_client(at_once, clock) as here:
        await register(here, LANCELOT)
        async with started_client(at_once, clock) as there:
            database = Database(at_once, clock)
            new = await rotate(database, at_once, clock)
            await database.close()
            await refresh_keys(here, clock)
            token = await log_in(here, LANCELOT)
            assert kid_of(token) == new
            assert await token_holds(there, token)


@contextmanager
def counted_reads(database: Database) -> Iterator[list[str]]:
    """The statements that read the signing keys."""
    reads: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "FROM signing_keys" in statement:
            reads.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield reads
    event.remove(engine, "before_cursor_execute", note)


class Known(RevocationCache):
    """Knows only how many keys were revoked."""

    revoked_keys = 0

    def is_fresh(self) -> bool:
        return True

    def invalidate(self) -> None: ...

    async def follow(self, stopping: asyncio.Event) -> None: ...

    def count_revoked_keys(self) -> int:
        return self.revoked_keys


@on_sqlite
async def test_tokens_with_unknown_kids_cause_at_most_ten_queries_a_second(
    database: Database, settings: Settings, clock: Clock
) -> None:
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, Known())

    async def present(number: int) -> None:
        with pytest.raises(InvalidTokenError):
            await keys.decode(by_nobody(f"{number:016x}"), clock())

    began_at = monotonic()
    with counted_reads(database) as reads:
        for _ in range(10):
            await asyncio.gather(*(present(number) for number in range(50)))
    assert len(reads) == 10
    assert monotonic() - began_at > 0.899  # nine pauses, which a slow machine only prolongs


async def test_of_many_simultaneous_requests_one_reads_the_keys_after_a_revocation(
    database: Database, settings: Settings, clock: Clock
) -> None:
    known = Known()
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, known)
    known.revoked_keys = 1
    with counted_reads(database) as reads:
        await asyncio.gather(*(keys.catch_up() for _ in range(10)))
    assert len(reads) == 1


async def test_keys_are_read_by_one_task_at_a_time(
    database: Database, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an older result that arrives later would replace a newer one."""
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(key_refresher, "MIN_REFRESH_INTERVAL_SECONDS", 0)
    read = KeyStore.read
    known = Known()
    under_way = most = 0

    async def noted_read(
        store: KeyStore, context: RequestContext, known: Keyring | None = None
    ) -> Keyring:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        keyring = await read(store, context, known)
        under_way -= 1
        return keyring

    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, known)
    monkeypatch.setattr(KeyStore, "read", noted_read)

    async def present_unknown_keys() -> None:
        for number in range(20):
            with pytest.raises(InvalidTokenError):
                await keys.decode(by_nobody(f"{number:016x}"), clock())

    async def hear_of_revoked_keys() -> None:
        for _ in range(20):
            known.revoked_keys += 1
            await keys.catch_up()

    jobs = BackgroundJobs()
    jobs.start(keys.run)
    await asyncio.gather(present_unknown_keys(), hear_of_revoked_keys())
    await jobs.stop()
    assert most == 1


async def test_workers_read_new_keys_again_after_a_database_outage(
    database: Database,
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 0.01)
    caplog.set_level("INFO", "hourpass.keys")
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
        jobs = BackgroundJobs()
        jobs.start(KeyRefresher(tokens, database, KeyStore(settings), clock, Known()).run)
        await session.execute(text("ALTER TABLE signing_keys RENAME TO lost"))
        await session.commit()
        with counted_reads(database) as reads:
            await until(lambda: len(reads) >= 5)
        await session.execute(text("ALTER TABLE lost RENAME TO signing_keys"))
        await session.commit()
    new = await rotate(database, settings, clock)
    await until(lambda: new in [key.kid for key in tokens.keyring.keys])
    await jobs.stop()
    # One warning, not one for each failure.
    logged = [record.message for record in caplog.records if record.name == "hourpass.keys"]
    problem = "Cannot load the signing keys, using the cached ones"
    assert [line for line in logged if problem in line] == [problem, f"Works again: {problem}"]


class Load:
    """Clients that keep logging in and checking tokens. Counts the responses."""

    def __init__(self, first_token: str) -> None:
        self.tokens = [first_token]
        self.answers = Counter[str]()
        self._over = asyncio.Event()
        self._signed_by: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def stop(self) -> None:
        self._over.set()

    async def reached(self, kid: str) -> None:
        """Return once a token signed with that key has been seen."""
        await self._signed_by[kid].wait()

    async def log_in(self, client: AsyncClient) -> None:
        while not self._over.is_set():
            response = await client.post("/token", json=GALAHAD)
            self.answers[f"login {response.status_code}"] += 1
            token = response.json()["token"]
            self.tokens.append(token)
            self._signed_by[kid_of(token)].set()
            await asyncio.sleep(0.02)

    async def check_tokens(self, client: AsyncClient) -> None:
        while not self._over.is_set():
            for token in (self.tokens[-1], random.choice(self.tokens)):
                response = await client.get(f"/token_status/{token}")
                self.answers[f"check {response.status_code}"] += 1
            await asyncio.sleep(0.02)


async def test_a_rotation_under_load_on_two_workers_rejects_no_request(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker has its own connections, keys and cache, as in a process of its own."""
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 0.3)
    soon = make_settings(settings.database_url, key_announce_seconds=1)
    async with started_client(soon, utc_now) as here, started_client(soon, utc_now) as there:
        await register(here, GALAHAD)
        load = Load(await log_in(here, GALAHAD))

        async def rotate_once() -> None:
            await load.reached(await rotate(database, soon, utc_now))
            load.stop()

        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for client in (here, there):
                group.create_task(load.log_in(client))
                group.create_task(load.check_tokens(client))
                group.create_task(load.check_tokens(client))
            group.create_task(rotate_once())
        kids = list(dict.fromkeys(kid_of(token) for token in load.tokens))
        assert await published(here) == kids

    assert len(kids) == 2
    assert set(load.answers) == {"login 200", "check 200"}, load.answers
    assert load.answers.total() > 30


async def test_a_worker_lists_a_revoked_key_only_once_it_has_the_next_one(
    settings: Settings, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rarely it reads the keys by itself. The revoked one no longer signs."""
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 3600)
    async with (
        started_client(settings, utc_now) as here,
        started_client(settings, utc_now) as there,
    ):
        await register(here, LANCELOT)
        for _ in range(2):
            old = kid_of(await log_in(here, LANCELOT))
            await asyncio.to_thread(command, "revoke", old, "--yes")
            for client in (there, here):
                async with asyncio.timeout(10):
                    while kid_of(await log_in(client, LANCELOT)) == old:  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0.005)
                    while f"kid:{old}" not in await revoked(client):  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0.005)
                (new,) = await published(client)
                assert new != old
                assert kid_of(await log_in(client, LANCELOT)) == new


async def test_a_worker_that_cannot_read_its_keys_lists_no_revoked_one(
    app: FastAPI, client: AsyncClient, command: Callable[..., str]
) -> None:
    await register(client, LANCELOT)
    old = kid_of(await log_in(client, LANCELOT))
    async with app.state.database.session() as session:
        await asyncio.to_thread(command, "revoke", old, "--yes")
        await session.execute(text("ALTER TABLE signing_keys RENAME TO lost"))
        await session.commit()
        async with asyncio.timeout(10):
            while (await client.get("/revocations")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        for path in ("/revocations", "/.well-known/jwks.json"):
            assert_problem(await client.get(path), 503, "temporarily_unavailable")
        await session.execute(text("ALTER TABLE lost RENAME TO signing_keys"))
        await session.commit()
    assert await revoked(client) == [f"kid:{old}"]
    assert old not in await published(client)


@on_sqlite
async def test_a_kid_in_another_format_is_rejected_without_reading_the_keys(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.key_refresher, "_refresh_since", None)  # a call would fail
    for kid in ("nobody", "0123456789ABCDEF", "0" * 15, "0" * 17, ""):
        assert not await token_holds(client, by_nobody(kid))
