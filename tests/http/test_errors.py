"""Every error has one shape, and repeats neither what was sent nor the text of an exception.

Also the limits of a request, the headers of every answer, and outages of the database.
"""

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import URL, make_url

from app.database.engine import Database
from app.http.access_log import JsonFormatter, TextFormatter
from app.settings import Settings
from tests.support.database_templates import Postgres
from tests.support.markers import on_sqlite
from tests.support.processes import free_port
from tests.support.settings import make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    token_is_valid,
)

P = ParamSpec("P")
R = TypeVar("R")

SECRET = "excalibur"
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def stream(size: int, beginning: bytes = b"") -> AsyncIterator[bytes]:
    """A body without a Content-Length."""
    yield beginning
    for _ in range(size // 1_000):
        yield b" " * 1_000


REFUSALS: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "an unknown path": ({"url": f"/{SECRET}"}, (404, "not_found")),
    "a slash too many": ({"url": "/me/"}, (404, "not_found")),
    "a wrong method": ({"url": "/me", "method": "POST"}, (405, "method_not_allowed")),
    "a member that is wrong": (
        {"url": "/register-user", "method": "POST", "json": {**LANCELOT, "email": SECRET}},
        (422, "invalid_request"),
    ),
    "a long body": (
        {"url": "/token", "method": "POST", "content": SECRET * 2_000, "headers": JSON},
        (413, "content_too_large"),
    ),
    "a long path": ({"url": f"/{SECRET * 1_000}"}, (414, "uri_too_long")),
    "a long query": ({"url": f"/me?{SECRET * 1_000}"}, (414, "uri_too_long")),
    "a long header": (
        {"url": "/me", "headers": {"Authorization": SECRET * 2_000}},
        (431, "headers_too_large"),
    ),
    "many headers": (
        {"url": "/me", "headers": {f"X-Knight-{n}": SECRET for n in range(1_000)}},
        (431, "headers_too_large"),
    ),
}


@on_sqlite
async def test_every_refusal_has_one_shape_and_repeats_nothing(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, (sent, refusal) in REFUSALS.items():
        with subtests.test(case):
            response = await client.request(**{"method": "GET", **sent})
            assert_problem(response, *refusal)
            assert_safe_headers(response)
            assert SECRET not in response.text


def assert_safe_headers(response: Response) -> None:
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-request-id"]


@on_sqlite
async def test_a_successful_answer_has_the_same_headers(client: AsyncClient) -> None:
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert_safe_headers(response)


@on_sqlite
async def test_a_405_lists_the_allowed_methods(client: AsyncClient) -> None:
    for path, methods in {
        "/me": "GET, HEAD, PATCH, DELETE",
        "/users/1": "GET, HEAD, PATCH",
        "/users": "GET, HEAD, POST",
        "/token": "POST",
        "/docs": "GET, HEAD",
        "/docs/assets/docs.js": "GET, HEAD",
    }.items():
        response = await client.options(path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == methods
    assert (await client.head("/token")).headers["allow"] == "POST"


@on_sqlite
async def test_a_body_without_an_end_is_refused(client: AsyncClient) -> None:
    for path in ("/register-user", "/token"):
        for headers in (JSON, FORM):
            response = await client.post(path, content=stream(20_000), headers=headers)
            assert_problem(response, 413, "content_too_large")


@on_sqlite
async def test_a_body_that_is_too_large_stores_nothing(client: AsyncClient) -> None:
    person = json.dumps(LANCELOT).encode()
    for content in (person + b" " * 20_000, stream(20_000, person)):
        response = await client.post("/register-user", content=content, headers=JSON)
        assert_problem(response, 413, "content_too_large")
    await register(client, LANCELOT)


async def crash() -> None:
    raise RuntimeError(f"the sword is {SECRET}")


async def crash_again() -> None:
    try:
        await crash()
    except RuntimeError as error:
        raise KeyError(SECRET) from error


async def crash_together() -> None:
    raise ExceptionGroup(SECRET, [ValueError(SECRET)])


async def answer_wrongly() -> str:
    return SECRET


CRASHES: dict[str, tuple[Any, type | None]] = {
    "an exception": (crash, None),
    "an exception with a cause": (crash_again, None),
    "a group of exceptions": (crash_together, None),
    "an answer that is not of the declared type": (answer_wrongly, int),
}


@on_sqlite
async def test_an_unexpected_error_is_a_500_without_its_text(
    client: AsyncClient,
    app: FastAPI,
    caplog: pytest.LogCaptureFixture,
    subtests: pytest.Subtests,
) -> None:
    for number, (case, (endpoint, answers)) in enumerate(CRASHES.items()):
        with subtests.test(case):
            caplog.clear()
            app.add_api_route(f"/crash{number}", endpoint, response_model=answers)
            response = await client.get(f"/crash{number}")
            body = assert_problem(response, 500, "server_error")
            assert body == {"message": "Internal server error", "error": "server_error"}
            assert_safe_headers(response)
            for formatter in (JsonFormatter(), TextFormatter()):
                lines = "\n".join(formatter.format(record) for record in caplog.records)
                assert "Unexpected error" in lines
                assert SECRET not in lines


@on_sqlite
async def test_a_valid_request_id_is_kept(client: AsyncClient) -> None:
    for given in ("camelot-1", "0" * 64):
        response = await client.get("/healthz", headers={"X-Request-ID": given})
        assert response.headers["x-request-id"] == given


BAD_REQUEST_IDS = {
    "empty": b"",
    "long": b"0" * 65,
    "two words": b"round table",
    "with another character": b"id=1",
    "beyond ASCII": "Guenièvre".encode(),
    "with a line break": b"camelot-1\n",
}


@on_sqlite
async def test_any_other_request_id_is_replaced(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, given in BAD_REQUEST_IDS.items():
        with subtests.test(case):
            response = await client.get("/healthz", headers=[(b"X-Request-ID", given)])
            assert re.fullmatch("[0-9a-f]{10}-[0-9a-f]+", response.headers["x-request-id"])


@on_sqlite
async def test_every_request_gets_an_id_of_its_own(client: AsyncClient) -> None:
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.fixture
def collected_garbage() -> Iterator[None]:
    """Collect the garbage of this test, which includes a warning about each connection that was cut
    off. Otherwise the next test would get the warnings."""
    yield
    gc.collect()


def cuts_connections(test: Callable[P, R]) -> Callable[P, R]:
    without_warnings = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    # Set up before the service, and so torn down after it.
    return without_warnings(pytest.mark.usefixtures("collected_garbage")(test))


@cuts_connections
async def test_during_an_outage_of_the_database_the_answer_is_503(
    client: AsyncClient, app: FastAPI, settings: Settings, request: pytest.FixtureRequest
) -> None:
    token = await log_in(client, ARTHUR)
    await app.state.database.close()  # open connections would still work
    with outage(make_url(settings.database_url), request):
        await assert_unavailable(client, token)
    assert await token_is_valid(client, token)
    await register(client, LANCELOT)


@contextmanager
def outage(url: URL, request: pytest.FixtureRequest) -> Iterator[None]:
    """SQLite's file is moved away. PostgreSQL accepts no more connections."""
    assert url.database is not None
    if url.get_backend_name() == "sqlite":
        path = Path(url.database)
        away = path.rename(path.with_suffix(".away"))
        path.mkdir()
        yield
        path.rmdir()
        away.rename(path)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        server.run(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        yield
        server.run(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")


async def assert_unavailable(client: AsyncClient, token: str) -> None:
    for response in (
        await client.get("/me", headers=bearer(token)),
        await client.post("/token", json=ARTHUR),
        await client.post("/register-user", json=LANCELOT),
    ):
        assert_problem(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
    assert_problem(await client.get("/readyz"), 503, "not_ready")
    assert (await client.get("/healthz")).status_code == 200


@on_sqlite
@cuts_connections
async def test_a_database_server_that_is_down_is_a_503(client: AsyncClient, app: FastAPI) -> None:
    token = await log_in(client, ARTHUR)
    url = f"postgresql://arthur:{SECRET}@127.0.0.1:{free_port()}/camelot"
    await app.state.database.close()
    app.state.database = Database(make_settings(url))
    await assert_unavailable(client, token)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@cuts_connections
async def test_connections_that_the_server_has_ended_are_replaced(
    client: AsyncClient, settings: Settings, postgres: Postgres
) -> None:
    token = await log_in(client, ARTHUR)
    name = make_url(settings.database_url).database
    # In a thread, so that the event loop notices it.
    await asyncio.to_thread(
        postgres.run,
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    async with asyncio.timeout(10):  # 503 until the loop has noticed
        while (await client.get(f"/token_status/{token}")).status_code == 503:
            await asyncio.sleep(0.01)
    assert await token_is_valid(client, token)
    assert await log_in(client, ARTHUR)
