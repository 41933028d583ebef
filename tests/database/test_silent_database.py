"""PostgreSQL goes silent without closing a connection: requests soon get 503, and work again once
it answers."""

import asyncio
import gc
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, make_url, select, text

from app.database import engine, fast_queries, postgres_driver
from app.database.connector import STATEMENT_SECONDS
from app.database.engine import Database, begin_write
from app.errors import UnavailableError
from app.main import create_app
from app.settings import Settings
from tests.support.markers import on_postgresql
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.silent_relay import SilentRelay, silent_relay
from tests.support.users import ARTHUR, assert_problem, bearer, log_in
from tests.support.waiting import until

pytestmark = [
    on_postgresql,
    # A query that is under way when its connection is thrown away.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SOON = 0.3


@pytest.fixture(autouse=True, scope="module")
def swept() -> Iterator[None]:
    """The garbage collector complains of a connection that went silent while it was set up. Let it
    do so here, and not in the test that comes next. Once for all these tests: it takes a second."""
    yield
    gc.collect()


@pytest.fixture
def relay(database_url: str) -> Iterator[SilentRelay]:
    directory = make_url(database_url).query["host"]
    with silent_relay(f"{directory}/.s.PGSQL.5432") as relay:
        yield relay


@pytest.fixture
def settings(database_url: str, relay: SilentRelay, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Through the relay, with shorter limits than the service's, so that the tests are quick."""
    monkeypatch.setattr(postgres_driver, "STATEMENT_SECONDS", 3 * SOON)
    monkeypatch.setattr(engine, "POOL_SECONDS", SOON)
    monkeypatch.setitem(postgres_driver._TIMEOUTS, "lock_timeout", f"{SOON * 1000:.0f}")
    url = make_url(database_url)
    query = f"connect_timeout=1&tcp_user_timeout={STATEMENT_SECONDS * 1000:.0f}"
    through = f"postgresql://{url.username}@127.0.0.1:{relay.port}/{url.database}?{query}"
    return make_settings(through, **ARTHUR_ADMINISTERS)


async def test_all_answers_are_503_until_the_database_speaks_again(
    client: AsyncClient, relay: SilentRelay
) -> None:
    token = await log_in(client, ARTHUR)
    assert (await client.get("/readyz")).status_code == 200

    async def statuses() -> list[int]:
        responses = await asyncio.gather(
            client.post("/token", json=ARTHUR),
            client.get("/me", headers=bearer(token)),
            client.get(f"/token_status/{token}"),
            client.get("/verify", headers=bearer(token)),
            client.get("/readyz"),
        )
        for response in responses:
            if response.status_code == 503:
                assert_problem(response, 503, response.json()["error"])
                assert response.headers["retry-after"] == "1"
        return [response.status_code for response in responses]

    relay.silence()
    while await statuses() != [503] * 5:  # for an instant, what the cache knew is still fresh
        pass
    assert await statuses() == [503] * 5  # now while connecting
    relay.forward_again()
    while await statuses() != [200, 200, 200, 200, 200]:
        pass


async def test_connections_that_a_firewall_has_forgotten_are_replaced(
    client: AsyncClient, app: FastAPI, relay: SilentRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them once the first one was silent, and not one after the other."""
    database: Database = app.state.database
    # A job that finds another silent connection meanwhile would have the new ones replaced, too.
    await app.state.jobs.stop()

    async def use_a_connection() -> None:
        async with database.session() as session:
            await session.execute(select(func.pg_sleep(0.05)))

    await asyncio.gather(*(use_a_connection() for _ in range(5)))
    token = await log_in(client, ARTHUR)
    relay.forget()
    with pytest.raises(UnavailableError):
        await use_a_connection()
    # New connections may be slow, on a busy machine. An old one would still be given up.
    monkeypatch.setattr(postgres_driver, "STATEMENT_SECONDS", 60)
    connector = database.connector
    assert isinstance(connector, postgres_driver.PostgresConnector)
    monkeypatch.setattr(connector, "_url", replace(connector._url, connect_seconds=60))
    await use_a_connection()
    assert await log_in(client, ARTHUR)
    assert (await client.get("/me", headers=bearer(token))).status_code == 200


async def test_the_service_stops_while_the_database_is_silent(
    settings: Settings, clock: Clock, relay: SilentRelay
) -> None:
    app = create_app(settings, clock, clock)
    async with asyncio.timeout(30), app.router.lifespan_context(app):
        async with app.state.database.session() as session:
            await fast_queries.current_time(session)
            await session.execute(text("SELECT 1"))
        relay.silence()


async def test_a_request_whose_client_has_gone_releases_its_connection(
    client: AsyncClient, app: FastAPI, relay: SilentRelay
) -> None:
    token = await log_in(client, ARTHUR)
    pool = app.state.database.engine.pool
    relay.silence()
    requests = [
        asyncio.create_task(client.get("/me/sessions", headers=bearer(token))) for _ in range(3)
    ]
    await until(lambda: pool.checkedout() > 0)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await until(lambda: pool.checkedout() == 0)
    relay.forward_again()  # so that the service ends at once


async def test_a_lock_that_is_not_free_in_time_is_an_outage(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """And the connection stays, because the server has answered."""
    database: Database = app.state.database
    lock = text("SELECT id FROM users FOR UPDATE")
    async with database.session() as first:
        await begin_write(first)
        await first.execute(lock)
        discarded_at = database.connector.discarded_at
        with pytest.raises(UnavailableError):
            async with database.session() as second:
                await second.execute(lock)
        assert database.connector.discarded_at == discarded_at
    assert "a lock was not free in time" in caplog.text


async def test_a_wait_for_a_connection_of_the_pool_is_short(
    app: FastAPI, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    database: Database = app.state.database
    connections = [database.engine.connect() for _ in range(settings.database_pool_size)]
    for connection in connections:
        await connection.start()
    with pytest.raises(UnavailableError):
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
    assert "all connections are in use" in caplog.text
    for connection in connections:
        await connection.close()


async def test_neither_a_lost_client_nor_a_lost_server_is_waited_for(app: FastAPI) -> None:
    """The server ends statements that take too long, and transactions of clients that have gone:
    they keep locks. The system keeps connections alive, so that no firewall forgets them, and
    notices that the other side has gone."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    async with app.state.database.engine.connect() as connection:
        values = [await connection.scalar(text(f"SHOW {name}")) for name in names]
        driver = (await connection.get_raw_connection()).driver_connection
        connected = driver._transport.get_extra_info("socket")
        options = [
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]
    assert values == ["4s", f"{SOON * 1000:.0f}ms", "30s"]
    assert options == [1, 30, 5000]
