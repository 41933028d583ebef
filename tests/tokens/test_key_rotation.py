"""Signing keys rotate without a failed request: a key is published before it signs, and verifies
until its last token has expired. A stolen key can be revoked at once."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import text

from app.cli.main import main as hourpass
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD
from app.settings import Settings
from app.tokens import key_refresher
from app.tokens.signing_keys.rotation import KeyRotation
from app.tokens.signing_keys.store import KeyNotFoundError, KeyStore
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import CHEAP_HASHING, Clock, make_settings, utc_now
from tests.support.signing_keys import command, published, refresh_keys, rotate
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    bearer,
    kid_of,
    log_in,
    register,
    token_is_valid,
)

__all__ = ["command"]

pytestmark = pytest.mark.first_start

ANNOUNCED = timedelta(seconds=600)
LIFETIME = timedelta(minutes=60)
CLOCK_SKEW = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


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
    assert await token_is_valid(client, last_of_old)
    assert await token_is_valid(client, first_of_new)


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
    assert await token_is_valid(client, last), "this is its last second"
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


@on_sqlite
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


@on_sqlite
async def test_refreshing_the_keys_keeps_the_shared_secret(
    settings: Settings, clock: Clock
) -> None:
    secret = "only the knights of the round table know it"
    hs256 = make_settings(settings.database_url, signing_algorithm="HS256", hs256_secret=secret)
    async with started_client(hs256, clock) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        await refresh_keys(client, clock)
        assert await token_is_valid(client, token)


async def test_simultaneous_rotations_create_one_key(
    database: Database, settings: Settings, clock: Clock
) -> None:
    first = await stored(database, settings, clock)
    hosts = [Database(settings, clock) for _ in range(4)]
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


@on_sqlite
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

        while not (entries := await rotations()):
            await asyncio.sleep(0.01)
        await refresh_keys(client, clock)
        (kid,) = {*await published(client)} - {first}
        assert [(entry["actor_id"], entry["details"]) for entry in entries] == [
            (None, {"kid": kid})
        ]


@on_sqlite
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


@on_sqlite
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
            await asyncio.sleep(0.05)

    async def check_tokens(self, client: AsyncClient) -> None:
        while not self._over.is_set():
            for token in (self.tokens[-1], random.choice(self.tokens)):
                response = await client.get(f"/token_status/{token}")
                self.answers[f"check {response.status_code}"] += 1
            await asyncio.sleep(0.03)


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
            group.create_task(rotate_once())
        kids = list(dict.fromkeys(kid_of(token) for token in load.tokens))
        assert await published(here) == kids

    assert len(kids) == 2
    assert set(load.answers) == {"login 200", "check 200"}, load.answers
    assert load.answers.total() > 30
