"""The settings create the first administrator, once per database."""

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from httpx import AsyncClient
from sqlalchemy import Connection, delete, insert, select, update

from app.accounts.first_admin.models import SetupStep
from app.accounts.first_admin.service import STEP
from app.database.engine import Database
from app.errors import StartupError
from app.settings import Settings
from app.users.models import User
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.migrations import (
    SAMPLES,
    in_database,
    scripts,
    tables_of,
    upgrade,
)
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    register,
)

pytestmark = pytest.mark.first_start

NOBODY_ENABLED = "/toggle-user-permission/4711/1"


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hourpass")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Those about the first administrator. Clears the log."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return [text for text in found if "FIRST_ADMIN" in text]


async def execute(settings: Settings, statement: Any) -> list[Any]:
    """In the database itself. Returns the rows of a query."""
    database = Database(settings)
    async with database.engine.connect() as connection:
        await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        async with connection.begin():
            result = await connection.execute(statement)
            rows = list(result.all()) if result.returns_rows else []
    await database.close()
    return rows


async def make_another(client: AsyncClient) -> dict[str, str]:
    """Create another administrator, who remains. Returns the header with its token."""
    headers = bearer(await log_in(client, ARTHUR))
    made = await client.post("/users", json={**GALAHAD, "is_admin": True}, headers=headers)
    assert made.status_code == 201, made.text
    return bearer(await log_in(client, GALAHAD))


async def names(client: AsyncClient) -> list[str]:
    answer = await client.get("/users", headers=bearer(await log_in(client, GALAHAD)))
    return [user["username"] for user in answer.json()["users"]]


async def test_a_removed_first_administrator_is_not_created_again(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started_client(settings, clock) as client:
        headers = await make_another(client)
        assert (await client.delete("/remove-user/1", headers=headers)).status_code == 200
        caplog.clear()
    for _ in range(2):
        async with started_client(settings, clock) as client:
            assert_problem(await client.post("/token", json=ARTHUR), 401, "invalid_grant")
            assert await names(client) == [GALAHAD["username"]]
        (warning,) = warnings_in(caplog)
        assert "hourpass create-admin NAME" in warning


@on_sqlite
async def test_a_removed_first_administrator_does_not_return_after_the_audit_log_was_purged(
    settings: Settings, clock: Clock
) -> None:
    """As after years, and whatever an operator did to the tables meanwhile."""
    async with started_client(settings, clock):
        pass
    await execute(settings, delete(User))
    async with started_client(settings, clock) as client:
        assert_problem(await client.post("/token", json=ARTHUR), 401, "invalid_grant")


@on_sqlite
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_admin": False}, "hourpass grant NAME admin"),
        ({"is_enabled": False}, "disabled"),
    ],
)
async def test_a_changed_first_administrator_stays_changed(
    settings: Settings,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, bool],
    said: str,
) -> None:
    async with started_client(settings, clock) as client:
        headers = await make_another(client)
        changed = await client.patch("/users/1", json=change, headers=headers)
        assert changed.status_code == 200
        caplog.clear()
    async with started_client(settings, clock) as client:
        headers = bearer(await log_in(client, GALAHAD))
        assert (await client.get("/users/1", headers=headers)).json() == changed.json()
    (warning,) = warnings_in(caplog)
    assert said in warning


@on_sqlite
async def test_another_name_in_the_settings_creates_no_second_administrator(
    database_url: str, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started_client(settings, clock) as client:
        await make_another(client)
    assert warnings_in(caplog) == []
    later = make_settings(
        database_url,
        first_admin_username=LANCELOT["username"],
        first_admin_password=LANCELOT["password"],
    )
    async with started_client(later, clock) as client:
        assert_problem(await client.post("/token", json=LANCELOT), 401, "invalid_grant")
    (warning,) = warnings_in(caplog)
    assert "hourpass create-admin NAME" in warning
    assert LANCELOT["password"] not in warning


@on_sqlite
async def test_no_first_administrator_is_created_where_there_is_one(
    database_url: str, settings: Settings, clock: Clock
) -> None:
    """As by `hourpass create-admin`."""
    async with started_client(make_settings(database_url), clock) as client:
        await register(client, GALAHAD)
    await execute(settings, update(User).values(is_admin=True))
    async with started_client(settings, clock) as client:
        assert await names(client) == [GALAHAD["username"]]


async def test_one_of_many_workers_that_start_at_once_creates_the_administrator(
    database_url: str, settings: Settings, clock: Clock
) -> None:
    """Half of them have other settings, as while a new version is rolled out."""
    others = make_settings(
        database_url,
        first_admin_username=LANCELOT["username"],
        first_admin_password=LANCELOT["password"],
    )
    async with AsyncExitStack() as stack:
        starts = [started_client(each, clock) for each in (settings, others) * 2]
        await asyncio.gather(*(stack.enter_async_context(start) for start in starts))
    assert await execute(settings, select(User.is_admin)) == [(True,)]


Row = tuple[str, dict[str, object]]  # the table and some of its columns

ORDINARY: Row = ("users", {"is_admin": False})
ADMINISTRATOR: Row = ("users", {"is_admin": True})


def entry(action: str, to: str) -> Row:
    """Of a time at which the database allows to delete it."""
    at = datetime(2020, 1, 1, tzinfo=UTC)
    return "audit_log", {"at": at, "action": action, "details": json.dumps({"to": to})}


OLDER_DATABASES: dict[str, tuple[list[Row], bool]] = {
    "no user": ([], False),
    "an ordinary user": ([ORDINARY], False),
    "an administrator": ([ADMINISTRATOR], True),
    "one created before": ([entry("user.register", "admin predict")], True),
    "one demoted since": ([ORDINARY, entry("user.grant", "admin")], True),
    "another scope": ([entry("user.grant", "administrate")], False),
}


def test_an_older_database_with_an_administrator_gets_no_second_one(
    empty_database_url: str, subtests: pytest.Subtests
) -> None:
    settings = make_settings(empty_database_url)
    migration = scripts().get_revision("0011")
    assert isinstance(migration.down_revision, str)
    upgrade(settings, migration.down_revision)

    def steps_after(connection: Connection, rows: list[Row]) -> list[Any]:
        """Of the migration, which is rolled back."""
        savepoint = connection.begin_nested()
        tables = {table.name: table for table in tables_of(connection)}
        for name in ("users", "audit_log"):
            connection.execute(delete(tables[name]))
        for name, values in rows:
            sample = {c.name: SAMPLES[c.type.python_type] for c in tables[name].columns}
            connection.execute(insert(tables[name]).values({**sample, **values}))
        with Operations.context(MigrationContext.configure(connection)):
            migration.module.upgrade()
        steps = connection.execute(select(SetupStep.name)).all()
        savepoint.rollback()
        return list(steps)

    for case, (rows, is_done) in OLDER_DATABASES.items():
        with subtests.test(case):
            steps = in_database(settings, partial(steps_after, rows=rows))
            assert steps == [(STEP,)] * is_done


@on_sqlite
async def test_the_first_administrator_is_created_once_and_never_changed(
    database_url: str, settings: Settings, clock: Clock
) -> None:
    async with started_client(settings, clock) as client:
        token = await log_in(client, ARTHUR)
        first = (await client.get("/me", headers=bearer(token))).json()
    assert first["is_admin"] is True
    later = make_settings(
        database_url, first_admin_username="ARTHUR", first_admin_password="sword in the stone"
    )
    async with started_client(later, clock) as client:
        assert (await client.get("/me", headers=bearer(token))).json() == first
        await log_in(client, ARTHUR)
        refused = await client.post("/token", json={**ARTHUR, "password": "sword in the stone"})
        assert_problem(refused, 401, "invalid_grant")


@on_sqlite
async def test_a_user_with_the_name_of_the_first_administrator_is_not_promoted(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started_client(make_settings(database_url), clock) as client:
        await register(client, LANCELOT)
    settings = make_settings(
        database_url, first_admin_username="Lancelot", first_admin_password="sword in the stone"
    )
    async with started_client(settings, clock) as client:
        token = await log_in(client, LANCELOT)
        response = await client.put(NOBODY_ENABLED, headers=bearer(token))
        assert_problem(response, 403, "insufficient_scope")
    (warning,) = warnings_in(caplog)
    assert "hourpass grant NAME admin" in warning
    await execute(settings, delete(User))
    async with started_client(settings, clock) as client:  # there has never been an administrator
        lancelot = {**LANCELOT, "password": "sword in the stone"}
        assert claims_of(await log_in(client, lancelot))["scope"] == "admin"


@on_sqlite
@pytest.mark.parametrize(
    ("username", "password", "culprit"),
    [
        pytest.param("arthur\n", "once and future king", "FIRST_ADMIN_USERNAME", id="its name"),
        pytest.param("arthur", "short", "FIRST_ADMIN_PASSWORD", id="its password"),
    ],
)
async def test_an_invalid_first_administrator_is_an_error_in_the_settings(
    database_url: str, clock: Clock, username: str, password: str, culprit: str
) -> None:
    settings = make_settings(
        database_url,
        first_admin_username=username,
        first_admin_password=password,
        password_policy="strict",
    )
    with pytest.raises(StartupError, match=culprit) as refusal:
        async with started_client(settings, clock):
            pass
    assert password not in str(refusal.value)
