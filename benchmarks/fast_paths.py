"""Measures the CPU time of requests with and without each of the two fast paths, and what it costs
to require a scope.

    python -m benchmarks.fast_paths

The requests go directly to the ASGI application, so the figures do not include uvicorn.
"""

import asyncio
import json
import logging
import tempfile
import time
import timeit
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import fast_queries
from app.http.middleware import RequestMiddleware
from app.main import create_app
from app.settings import Settings
from benchmarks.parameters import PASSWORD
from hourpass.scopes import covers

ROUNDS = 7
REQUESTS = 200
PATTERNS = 60
LOGIN = json.dumps({"username": "arthur", "password": PASSWORD}).encode()


async def ask(app: FastAPI, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """The body of the response."""
    answer: list[bytes] = []
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "headers": [(name.replace("_", "-").encode(), headers[name].encode()) for name in headers],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message["status"]
        answer.append(message.get("body", b""))

    await app(scope, receive, send)
    return b"".join(answer)


async def cost(request: Callable[[], Awaitable[bytes]]) -> float:
    """The CPU time of one request in milliseconds."""
    began_at = time.process_time()
    for _ in range(REQUESTS):
        await request()
    return (time.process_time() - began_at) / REQUESTS * 1000


async def without_fast_queries(
    session: AsyncSession, statement: fast_queries.Statement, parameters: dict[str, Any]
) -> Sequence[Any]:
    was_in_transaction = session.in_transaction()
    result = await session.execute(statement, parameters)
    rows = result.all() if isinstance(statement, Select) else ()
    if not was_in_transaction:
        await session.commit()
    return rows


async def compare(directory: Path) -> None:
    settings = Settings.model_validate(
        {
            "database_url": f"sqlite:///{directory}/hourpass.db",
            "first_admin_username": "arthur",
            "first_admin_password": PASSWORD,
            "argon2_memory_kib": 8,  # what is around the hash counts here
            "argon2_passes": 1,
            "user_actions_per_hour": 1_000_000,
            "log_level": "error",
        }
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        middleware: RequestMiddleware = app.state.middleware
        prefixes, run = middleware._fast_prefixes, fast_queries.run  # noqa: SLF001 - switched off

        async def log_in() -> bytes:
            return await ask(app, "POST", "/token", LOGIN, content_type="application/json")

        token = json.loads(await log_in())["token"]

        async def check() -> bytes:
            return await ask(app, "GET", "/verify", authorization=f"Bearer {token}")

        async def check_scope() -> bytes:
            return await ask(app, "GET", "/verify?scope=admin", authorization=f"Bearer {token}")

        checks: dict[bool, list[float]] = {True: [], False: []}
        scope_checks: list[float] = []
        logins: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS):
            for is_fast in (True, False):
                middleware._fast_prefixes = prefixes if is_fast else ()  # noqa: SLF001 - nothing public turns it off
                checks[is_fast].append(await cost(check))
                if is_fast:
                    scope_checks.append(await cost(check_scope))
                fast_queries.run = run if is_fast else without_fast_queries  # type: ignore[assignment] # a function too
                logins[is_fast].append(await cost(log_in))
    for name, costs in (("/verify", checks), ("login without its hash", logins)):
        fast, slow = median(costs[True]), median(costs[False])
        print(f"{name}: {fast:.3f} ms of CPU, without {slow:.3f} ({slow / fast:.1f} times that)")
    scope_check = median(scope_checks) / median(checks[True])
    print(f"/verify?scope=admin: {scope_check:.2f} times /verify")


def time_covers() -> None:
    """Microseconds of a check against as many patterns as fit into a token."""
    patterns = frozenset(f"predict:team-{number:02}/*" for number in range(PATTERNS))
    for what, needed in (
        ("covered by the last pattern", f"predict:team-{PATTERNS - 1:02}/fraud-v3"),
        ("covered by none", "predict:others/fraud-v3"),
        ("named", f"predict:team-{PATTERNS - 1:02}/*"),
    ):
        times = timeit.repeat(partial(covers, patterns, needed), number=10_000)
        print(f"covers() with {PATTERNS} patterns, {what}: {min(times) * 100:.2f} µs")


def main() -> None:
    logging.disable()
    time_covers()
    with tempfile.TemporaryDirectory(prefix="hourpass-") as directory:
        asyncio.run(compare(Path(directory)))


if __name__ == "__main__":
    main()
