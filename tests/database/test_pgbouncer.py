"""Behind PgBouncer, each transaction may have another connection. No setting is needed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import make_url, text

from app.database.engine import Database
from app.database.postgres_driver import PostgresConnector
from app.settings import Settings
from tests.support.markers import on_postgresql
from tests.support.pgbouncer import pgbouncer
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings
from tests.support.users import bearer, log_in, register

pytestmark = on_postgresql
# By default it refuses what it does not know. Many set this, because drivers send it.
_IGNORING = (
    "ignore_startup_parameters = statement_timeout, lock_timeout,"
    " idle_in_transaction_session_timeout, default_transaction_isolation"
)


@pytest.fixture(params=["", _IGNORING], ids=["refusing settings", "ignoring settings"])
def settings(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> Iterator[Settings]:
    url = make_url(database_url)
    directory = url.query["host"]
    assert isinstance(directory, str)
    with pgbouncer(tmp_path, directory, request.param) as port:
        through = f"postgresql://postgres@127.0.0.1:{port}/{url.database}"
        yield make_settings(through, **ARTHUR_ADMINISTERS)


async def test_many_requests_share_few_connections_of_the_server(
    client: AsyncClient, app: FastAPI
) -> None:
    connector = app.state.database.connector
    assert isinstance(connector, PostgresConnector)
    assert await connector.has_pooler()

    async def use(number: int) -> int:
        person = {
            "username": f"knight {number}",
            "password": "Galahad's 3 swords",
            "email": f"knight-{number}@camelot.example",
        }
        await register(client, person)
        token = await log_in(client, person)
        return (await client.get("/me", headers=bearer(token))).status_code

    assert await asyncio.gather(*(use(number) for number in range(12))) == [200] * 12
    assert (await client.get("/readyz")).status_code == 200


async def test_transactions_have_the_limits_that_connections_have_otherwise(app: FastAPI) -> None:
    database: Database = app.state.database
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    async with database.session() as session:
        assert [await session.scalar(text(f"SHOW {name}")) for name in names] == ["4s", "3s", "30s"]
