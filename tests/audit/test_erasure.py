"""Personal data of a removed user can be erased from the audit log. Nothing else can be changed."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import Table, select, text, update
from sqlalchemy.exc import DBAPIError

from app.audit import erasure
from app.audit.models import Entry
from app.database.engine import Database, begin_write
from tests.support.apps import client_of, started_client
from tests.support.audit import add_entries, entries_of, service_url
from tests.support.commands import Command, assert_refused, hourpass
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
)

__all__ = ["hourpass", "service_url"]

NOBODY = 4711
BLANK: dict[str, Any] = {"address": "", "user_agent": "", "request_id": None}


def data_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in BLANK}


def rest_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in BLANK}


async def add_and_remove_lancelot(app: FastAPI, client: AsyncClient, arthurs_token: str) -> int:
    """Lancelot leaves entries of every kind, and removes his account."""
    at_home = client_of(app, "192.0.2.7")
    lancelot = await register(at_home, LANCELOT)
    await at_home.post("/token", json={**LANCELOT, "password": "wrong"})
    await log_in(at_home, LANCELOT)
    path = f"/users/{lancelot}/revoke-tokens"
    await client.post(path, headers=bearer(arthurs_token))
    headers = bearer(await log_in(at_home, LANCELOT))
    made = await at_home.post("/me/api-keys", json={"name": "batch"}, headers=headers)
    assert made.status_code == 201
    proof = {"password": LANCELOT["password"]}
    removed = await at_home.request("DELETE", "/me", json=proof, headers=headers)
    assert removed.status_code == 200
    return lancelot


async def erase(client: AsyncClient, token: str, user_id: int) -> dict[str, Any]:
    response = await client.delete(f"/users/{user_id}/personal-data", headers=bearer(token))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_the_data_of_the_user_is_erased_and_the_entries_stay(
    app: FastAPI, client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BATCH_SIZE", 2)
    await client.post("/token", json={"username": "nobody", "password": "wrong"})
    await register(client, GALAHAD)
    await log_in(client, GALAHAD)
    lancelot = await add_and_remove_lancelot(app, client, arthurs_token)
    before = await entries_of(client, arthurs_token)
    answer = await erase(client, arthurs_token, lancelot)
    assert answer == {"message": "Personal data erased", "user_id": lancelot, "entries": 6}
    added, *after = await entries_of(client, arthurs_token)
    assert list(map(rest_of, after)) == list(map(rest_of, before))
    for entry, earlier in zip(after, before, strict=True):
        is_his = (entry["actor_id"] or entry["subject_id"]) == lancelot
        assert data_of(entry) == (BLANK if is_his else data_of(earlier))
    assert sum(data_of(entry) == BLANK for entry in after) == 6 + 1  # and what no request did
    about = (added["action"], added["actor_id"], added["subject_id"], added["succeeded"])
    assert about == ("user.erase", 1, lancelot, True)
    assert added["address"] == "127.0.0.1"
    assert (await erase(client, arthurs_token, lancelot))["entries"] == 0
    assert (await entries_of(client, arthurs_token))[1] == added


@on_sqlite
async def test_only_administrators_erase_and_only_removed_users(
    app: FastAPI, client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await add_and_remove_lancelot(app, client, arthurs_token)
    galahad = await register(client, GALAHAD)
    path = "/users/{}/personal-data"
    assert_problem(await client.delete(path.format(lancelot)), 401, "missing_token")
    galahads = bearer(await log_in(client, GALAHAD))
    refused = await client.delete(path.format(lancelot), headers=galahads)
    assert_problem(refused, 403, "insufficient_scope")
    number = len(await entries_of(client, arthurs_token))
    for user_id, status, error in (
        (galahad, 409, "user_not_removed"),
        (NOBODY, 404, "user_not_found"),
        (0, 422, "invalid_request"),
    ):
        answer = await client.delete(path.format(user_id), headers=bearer(arthurs_token))
        assert_problem(answer, status, error)
    assert len(await entries_of(client, arthurs_token)) == number


@on_sqlite
async def test_the_command_erases_and_prints_the_number_of_entries(
    app: FastAPI, client: AsyncClient, hourpass: Command, arthurs_token: str
) -> None:
    lancelot = str(await add_and_remove_lancelot(app, client, arthurs_token))
    refused = await hourpass("users", "erase", "--yes", "1")
    assert_refused(refused, "The user still exists. Delete the user first")
    assert_refused(await hourpass("users", "erase", "--yes", str(NOBODY)), "User not found")
    assert (await hourpass("users", "erase", "--yes", "lancelot")).exit_code == 2
    assert (await hourpass("users", "erase", "--yes", str(2**63))).exit_code == 2
    for number in ("6 entries", "0 entries"):
        done = await hourpass("users", "erase", "--yes", lancelot)
        assert done.stdout == f"Erased the personal data in {number} of the audit log.\n"
    entries = await entries_of(client, arthurs_token, action="user.erase")
    assert [(entry["actor_id"], entry["user_agent"]) for entry in entries] == [
        (None, "hourpass")
    ] * 2


CHANGED: dict[str, Any] = {
    "id": 99,
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "action": "x",
    "actor_id": 99,
    "subject_id": 99,
    "succeeded": False,
    "details": "x",
}


async def test_the_database_allows_no_other_change(
    app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    database: Database = app.state.database
    table = cast("Table", Entry.__table__)
    columns = table.columns
    assert CHANGED.keys() | BLANK.keys() == set(columns.keys())
    persons = [(NOBODY, None), (None, NOBODY), (NOBODY, 1), (1, NOBODY), (None, 1), (None, None)]
    for actor_id, subject_id in persons:
        values = {"actor_id": actor_id, "subject_id": subject_id, "ip_address": "192.0.2.7"}
        await add_entries(database, clock, 1, **values, user_agent="x", request_id="y", details="z")

    async def is_refused(row: int, **values: Any) -> bool:
        async with database.session() as session:
            await begin_write(session)
            change = update(table).where(columns.id == ids[row]).values(**values)
            try:
                await session.execute(change)
            except DBAPIError as error:
                assert "append-only" in str(error)  # noqa: PT017 - or no error at all
                return True
            await session.rollback()
            return False

    async with database.session() as session:
        ids = (await session.scalars(select(Entry.id).order_by(Entry.id).offset(1))).all()
    for row, (actor_id, subject_id) in enumerate(persons):
        with subtests.test(f"actor {actor_id}, subject {subject_id}"):
            is_of_a_removed_user = (actor_id or subject_id) == NOBODY
            assert await is_refused(row, **BLANK) is not is_of_a_removed_user
    for name, value in {"address": "192.0.2.8", "user_agent": "z", "request_id": "z"}.items():
        with subtests.test(f"another {name}"):
            assert await is_refused(0, **{**BLANK, name: value})
    for name, value in CHANGED.items():
        with subtests.test(f"{name} as well"):
            assert await is_refused(0, **BLANK, **{name: value})


@on_postgresql
async def test_a_role_that_may_not_change_the_log_is_told_what_to_do(
    service_url: str, hourpass: Command, database: Database, clock: Clock
) -> None:
    async with started_client(make_settings(service_url, **ARTHUR_ADMINISTERS), clock) as client:
        token = await log_in(client, ARTHUR)
        lancelot = await register(client, LANCELOT)
        await client.delete(f"/remove-user/{lancelot}", headers=bearer(token))
        path = f"/users/{lancelot}/personal-data"
        refused = await client.delete(path, headers=bearer(token))
        body = assert_problem(refused, 403, "erasure_unavailable")
        assert "hourpass users erase with the role that owns the tables" in body["message"]
        assert await entries_of(client, token, action="user.erase") == []
        owners = await hourpass("users", "erase", "--yes", str(lancelot))
        assert owners.stdout == "Erased the personal data in 1 entry of the audit log.\n"
        grant = "GRANT UPDATE (address, user_agent, request_id) ON audit_log TO hourpass_service"
        async with database.engine.begin() as connection:
            await connection.execute(text(grant))
        assert (await erase(client, token, lancelot))["entries"] == 0


@on_postgresql
async def test_a_role_that_may_erase_cannot_hide_the_users(
    service_url: str, database: Database
) -> None:
    """By a table of the same name, which comes first in the search path."""
    async with database.engine.begin() as connection:
        grant = "GRANT UPDATE (address, user_agent, request_id) ON audit_log TO hourpass_service"
        await connection.execute(text(grant))
        insert = (
            "INSERT INTO audit_log (at, action, actor_id, succeeded, address, user_agent, details)"
            " VALUES (now(), 'login', 1, true, '192.0.2.7', 'x', '{}')"
        )
        await connection.execute(text(insert))
    service = Database(make_settings(service_url))
    async with service.engine.begin() as connection:
        await connection.execute(text("CREATE TEMPORARY TABLE users (id bigint)"))
        blank = "UPDATE audit_log SET address = '', user_agent = '', request_id = NULL"
        with pytest.raises(DBAPIError, match="append-only"):
            await connection.execute(text(f"{blank} WHERE actor_id = 1"))
    await service.close()
