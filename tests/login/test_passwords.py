"""Passwords: which ones are rejected, how they are hashed, and how imported hashes are upgraded.

When the queue for hashing is full, logins are rejected at once and everything else works.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from fastapi import FastAPI
from httpx import AsyncClient
from passlib.hash import argon2, bcrypt, django_pbkdf2_sha256, pbkdf2_sha256
from sqlalchemy import select, update

from app.context import RequestContext
from app.database.engine import begin_write
from app.errors import InvalidRequestError
from app.security.passwords import Passwords, _argon2id, _openssl_is_faster
from app.settings import Settings
from app.users.models import User
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    token_is_valid,
)
from tests.support.waiting import until

NO_DATABASE = "sqlite:///never-opened.db"
PASSWORD = LANCELOT["password"]


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(make_settings(NO_DATABASE, password_policy="strict"))
    yield passwords
    passwords.close()


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        pytest.param("grail!7", "at least 8 characters", id="a short one"),
        pytest.param("ｸﾞﾚｲﾙ!", "at least 8 characters", id="a short one of many bytes"),
        pytest.param("password1", "commonly used", id="a common one"),
        pytest.param("PassWord1", "commonly used", id="a common one in mixed case"),
        pytest.param(
            "\N{FULLWIDTH LATIN SMALL LETTER P}assword1",
            "commonly used",
            id="a common one in full width",
        ),
        pytest.param("sir lancelot", "the username", id="the name"),
        pytest.param("SIR LANCELOT", "the username", id="the name in capitals"),
        pytest.param("lancelot@camelot.example", "the e-mail address", id="the address"),
    ],
)
async def test_the_strict_policy_names_the_rule_that_is_broken(
    passwords: Passwords, password: str, rule: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"^password: Must .*{rule}") as refusal:
        passwords.validate_new(password, "sir lancelot", "Lancelot@camelot.example")
    assert password not in str(refusal.value)


@pytest.mark.parametrize(
    "password", [PASSWORD, "7 grails", "sir lancelot du lac", "🏰🐎🛡👑🏆🔥💧🗡"]
)
async def test_the_strict_policy_accepts_other_passwords(
    passwords: Passwords, password: str
) -> None:
    passwords.validate_new(password, "sir lancelot", LANCELOT["email"], None)


@on_sqlite
async def test_registration_applies_the_password_policy(database_url: str, clock: Clock) -> None:
    simple = {**LANCELOT, "password": "123456"}
    async with started_client(
        make_settings(database_url, password_policy="strict"), clock
    ) as client:
        response = await client.post("/register-user", json=simple)
        assert assert_problem(response, 422, "invalid_request")["fields"] == [
            {"field": "password", "message": "Must have at least 8 characters"}
        ]
        assert_problem(await client.post("/token", json=simple), 401, "invalid_grant")
    async with started_client(
        make_settings(database_url, password_policy="basic"), clock
    ) as client:
        await register(client, simple)
        await log_in(client, simple)


async def test_by_default_a_hash_costs_what_owasp_asks_for() -> None:
    passwords = Passwords(Settings())
    password_hash = await passwords.hash(PASSWORD)
    assert password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(PASSWORD, password_hash)
    assert not passwords.needs_rehash(password_hash)
    passwords.close()


async def test_an_imported_hash_is_upgraded_at_the_next_login(
    client: AsyncClient, app: FastAPI, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    earlier_token = await log_in(client, LANCELOT)
    for name, made_by in {
        "bcrypt": bcrypt.using(rounds=4),
        "PBKDF2": pbkdf2_sha256.using(rounds=1_000),
        "Django's PBKDF2": django_pbkdf2_sha256.using(rounds=1_000),
        "Argon2 with other parameters": argon2.using(memory_cost=16, time_cost=1, parallelism=1),
    }.items():
        with subtests.test(name):
            old_hash = made_by.hash(PASSWORD)
            await store_hash(app, user_id, old_hash)
            wrong = await client.post("/token", json={**LANCELOT, "password": PASSWORD.upper()})
            assert_problem(wrong, 401, "invalid_grant")
            assert await stored_hash(app, user_id) == old_hash

            token = await log_in(client, LANCELOT)
            upgraded = await stored_hash(app, user_id)
            assert upgraded.startswith("$argon2id$v=19$m=8,t=1,p=1$")
            assert await token_is_valid(client, token)
            assert await token_is_valid(client, earlier_token)
            await log_in(client, LANCELOT)
            assert await stored_hash(app, user_id) == upgraded


async def test_a_password_changed_while_a_login_rehashes_the_old_one_stays_changed(
    client: AsyncClient,
    app: FastAPI,
    users: Users,
    context: RequestContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user_id = await register(client, LANCELOT)
    await store_hash(app, user_id, bcrypt.using(rounds=4).hash(PASSWORD))
    rehashing, changed = asyncio.Event(), asyncio.Event()
    hash_ = app.state.services.passwords.hash

    async def hash_late(password: str) -> str:
        if password == PASSWORD:
            rehashing.set()
            await changed.wait()
        made: str = await hash_(password)
        return made

    monkeypatch.setattr(app.state.services.passwords, "hash", hash_late)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        login = group.create_task(log_in(client, LANCELOT))
        await rehashing.wait()
        await users.change_password(context, user_id, "joyous gard")
        changed.set()
    assert not await token_is_valid(client, login.result())
    assert_problem(await client.post("/token", json=LANCELOT), 401, "invalid_grant")
    await log_in(client, {**LANCELOT, "password": "joyous gard"})


async def test_while_a_password_is_hashed_no_connection_is_held(
    client: AsyncClient,
    app: FastAPI,
    users: Users,
    context: RequestContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords, pool = app.state.services.passwords, app.state.database.engine.pool
    hash_ = passwords.hash
    hashed: list[str] = []

    async def hash_without_connection(password: str) -> str:
        await until(lambda: pool.checkedout() == 0)
        hashed.append(password)
        made: str = await hash_(password)
        return made

    monkeypatch.setattr(passwords, "hash", hash_without_connection)
    user_id = await register(client, LANCELOT)
    await users.change_password(context, user_id, "joyous gard")
    assert hashed == [PASSWORD, "joyous gard"]


async def store_hash(app: FastAPI, user_id: int, password_hash: str) -> None:
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(
            update(User).where(User.id == user_id).values(password_hash=password_hash)
        )
        await session.commit()


async def stored_hash(app: FastAPI, user_id: int) -> str:
    async with app.state.database.session() as session:
        password_hash: str = await session.scalar(
            select(User.password_hash).where(User.id == user_id)
        )
        return password_hash


UNUSABLE = {
    "a mark that there is none": "!",
    "nothing": "",
    "the password itself": PASSWORD,
    "a damaged one": "$argon2id$v=19$m=8,t=1,p=1$damaged",
}


@on_sqlite
async def test_an_unusable_hash_matches_no_password(
    client: AsyncClient, app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    for name, unusable in UNUSABLE.items():
        with subtests.test(name):
            clock.advance(timedelta(days=2))  # beyond the rate limits
            await store_hash(app, user_id, unusable)
            for password in (PASSWORD, "!", "damaged"):
                response = await client.post("/token", json={**LANCELOT, "password": password})
                assert_problem(response, 401, "invalid_grant")


@pytest.mark.parametrize("password_hash", [None, *UNUSABLE.values()], ids=["no hash", *UNUSABLE])
async def test_a_hash_that_cannot_be_checked_costs_as_much_as_one_that_can(
    passwords: Passwords, password_hash: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_through = []
    verify = passwords._verify_hash

    def noting(password: str, password_hash: str) -> bool:
        matches = verify(password, password_hash)
        carried_through.append(password_hash.rsplit("$", 2)[0])
        return matches

    monkeypatch.setattr(passwords, "_verify_hash", noting)
    assert not await passwords.verify("x" * 100, password_hash)
    assert carried_through == ["$argon2id$v=19$m=8,t=1,p=1"]


async def test_the_hash_for_unknown_users_looks_like_any_other(passwords: Passwords) -> None:
    """So it costs as much."""
    made, nobodys = await passwords.hash(PASSWORD), passwords._dummy_hash
    assert argon2.parsehash(nobodys).keys() == argon2.parsehash(made).keys()
    assert [len(part) for part in nobodys.split("$")] == [len(part) for part in made.split("$")]
    assert not passwords.needs_rehash(made)
    assert not await passwords.verify(PASSWORD, nobodys)
    assert Passwords(make_settings(NO_DATABASE))._dummy_hash != nobodys


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("type_", ["ID", "I", "D"])
async def test_openssl_and_libargon2_agree(passwords: Passwords, type_: str, lanes: int) -> None:
    made = argon2.using(
        type=type_, memory_cost=64, time_cost=3, parallelism=lanes, salt_size=20, digest_size=24
    ).hash(PASSWORD)
    assert (_argon2id(made) is not None) == (type_ == "ID")
    assert await passwords.verify(PASSWORD, made)
    assert not await passwords.verify(PASSWORD.upper(), made)
    assert passwords.needs_rehash(made)


async def test_a_hash_that_differs_only_in_lanes_needs_a_rehash(passwords: Passwords) -> None:
    ours = await passwords.hash(PASSWORD)
    other = ours.replace("m=8,t=1,p=1", "m=8,t=1,p=2")
    assert len(other) == len(ours)
    assert other != ours
    assert not passwords.needs_rehash(ours)
    assert passwords.needs_rehash(other)


def unsupported(**_: object) -> None:
    raise UnsupportedAlgorithm("as an OpenSSL before 3.2 does")


def slow(**_: object) -> Any:
    time.sleep(0.01)
    return SimpleNamespace(derive=bytes)


@pytest.mark.parametrize("openssls", [unsupported, slow])
async def test_libargon2_is_used_if_openssl_has_no_argon2_or_a_slower_one(
    monkeypatch: pytest.MonkeyPatch, openssls: Callable[..., None]
) -> None:
    monkeypatch.setattr("app.security.passwords.Argon2id", openssls)
    assert not _openssl_is_faster.__wrapped__()


@pytest.mark.parametrize("by_openssl", [True, False])
async def test_both_argon2_implementations_verify_passwords(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, *, by_openssl: bool
) -> None:
    monkeypatch.setattr(passwords, "_by_openssl", by_openssl)
    password_hash = await passwords.hash(PASSWORD)
    assert await passwords.verify(PASSWORD, password_hash)
    assert not await passwords.verify(PASSWORD.upper(), password_hash)


@on_sqlite
@pytest.mark.parametrize("queue", [0, 2], ids=["no queue", "a queue of two"])
async def test_when_the_queue_is_full_logins_are_rejected_and_tokens_stay_valid(
    client: AsyncClient, app: FastAPI, queue: int
) -> None:
    token = await log_in(client, ARTHUR)
    occupied, gate = threading.Event(), threading.Event()
    crowded: Passwords = app.state.services.passwords
    crowded.close()
    # All services hold this object, so it gets another one's threads and queue.
    vars(crowded).update(
        vars(Passwords(make_settings(NO_DATABASE, hashing_threads=1, hashing_queue=queue)))
    )

    def occupy() -> None:
        occupied.set()
        gate.wait()

    waiting = [asyncio.create_task(crowded._run(1, occupy)) for _ in range(1 + queue)]
    await asyncio.to_thread(occupied.wait)
    waiting[0].cancel()  # a client that disconnects does not free the thread
    try:
        for refused in (
            await client.post("/token", json=ARTHUR),
            await client.post("/token", data=ARTHUR),
            await client.post("/register-user", json=LANCELOT),
        ):
            assert_problem(refused, 503, "temporarily_unavailable")
            assert refused.headers["retry-after"] == "1"
        assert await token_is_valid(client, token)
        assert (await client.get("/me", headers=bearer(token))).status_code == 200
    finally:
        gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.to_thread(crowded._pool.submit(bool).result)  # the last one has left
    await log_in(client, ARTHUR)
    crowded.close()
