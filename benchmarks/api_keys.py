"""Measures what API keys cost the service.

    python -m benchmarks.api_keys [--keys 1000000] [--per-second 5000] [--postgresql] [--only flood]

- /verify with a known key and with a known token, and the first check of a key, in one process;
- start, memory and lookup with many keys in the table;
- a flood of forged keys with correct checksums beside valid calls, over loopback;
- the signatures for 10,000 keys, measured with fewer keys and a fast clock.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from fastapi import FastAPI
from sqlalchemy import insert

from app.context import RequestContext
from app.credentials.api_keys.exchange import KeyExchange
from app.credentials.api_keys.fingerprints import hash_key
from app.credentials.api_keys.live_keys import LiveKeys, fingerprint_of
from app.credentials.api_keys.models import ApiKey
from app.database.engine import Database, begin_write
from app.main import create_app
from app.settings import Settings
from app.users import token_cache
from benchmarks.fast_paths import ask, cost
from benchmarks.load import Load, drive
from benchmarks.parameters import PASSWORD
from benchmarks.population import verify
from benchmarks.servers import hourpass, postgres
from hourpass.api_keys import generate_key, id_of

ROUNDS = 7
BATCH = 5_000
GUARDS, KEYS, HOURS = 40, 100, 4  # of the simulation
TOKEN_SECONDS = 3600


def settings_for(url: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": url,
            "first_admin_username": "arthur",
            "first_admin_password": PASSWORD,
            "argon2_memory_kib": 8,
            "argon2_passes": 1,
            "log_level": "error",
        }
    )


@asynccontextmanager
async def started(url: str, clock: Any = None) -> AsyncIterator[FastAPI]:
    app = create_app(settings_for(url), clock)
    async with app.router.lifespan_context(app):
        yield app


async def add_keys(database: Database, number: int) -> list[str]:
    """Returns the texts of the last 5,000."""
    now = datetime.now(UTC)
    keys: list[str] = []
    for start in range(0, number, BATCH):
        keys = [generate_key() for _ in range(min(BATCH, number - start))]
        rows = [
            {
                "id": id_of(key),
                "user_id": 1,
                "name": "benchmark",
                "secret_hash": hash_key(key),
                "version": 1,
                "scopes": "predict",
                "created_at": now,
                "expires_at": now + timedelta(days=90),
            }
            for key in keys
        ]
        async with database.session() as session:
            await begin_write(session)
            await session.execute(insert(ApiKey), rows)
            await session.commit()
    return keys


async def loaded(app: FastAPI) -> None:
    live_keys: LiveKeys = app.state.live_keys
    while not live_keys.is_loaded:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.01)


async def checks(url: str) -> None:
    async with started(url) as app:
        keys = await add_keys(app.state.database, 300)
    async with started(url) as app:
        await loaded(app)
        exchange: KeyExchange = app.state.token_checker.readers[0]
        async with app.state.database.session() as session:
            context = RequestContext(session, app.state.clock())
            token = (await exchange.exchange(context, keys[0])).token
        credentials = {"token": token, "key": keys[0]}
        costs: dict[str, list[float]] = {name: [] for name in credentials}
        for _ in range(ROUNDS):
            for name, credential in credentials.items():
                authorization = f"Bearer {credential}"
                request = partial(ask, app, "GET", "/verify", authorization=authorization)
                costs[name].append(await cost(request))
        first, used = [], time.process_time()
        for key in keys[1:]:
            began_at = time.perf_counter()
            await ask(app, "GET", "/verify", authorization=f"Bearer {key}")
            first.append((time.perf_counter() - began_at) * 1000)
        used = (time.process_time() - used) / len(first) * 1000
    known, token_ms = median(costs["key"]), median(costs["token"])
    print(
        f"/verify of a known key: {known * 1000:.1f} us of CPU, of a known token"
        f" {token_ms * 1000:.1f} ({known / token_ms:.2f} times that)"
    )
    print(
        f"first sight of a key: median {median(first):.2f} ms, fastest {min(first):.2f} ms,"
        f" {used:.2f} ms of CPU"
    )


async def guards(url: str) -> None:
    """Each guard requests a new token when a fifth of its token's lifetime is left."""
    now = [time.time()]
    # Otherwise the clock would seem to be set.
    token_cache.monotonic = lambda: now[0]  # type: ignore[attr-defined]  # replaced for this process

    async with started(url, lambda: datetime.fromtimestamp(now[0], UTC)) as app:
        keys = await add_keys(app.state.database, KEYS)
        signed = [0]
        tokens = app.state.tokens
        encode = tokens.encode

        def count(*arguments: Any) -> str:
            signed[0] += 1
            return str(encode(*arguments))

        tokens.encode = count
        exchange: KeyExchange = app.state.token_checker.readers[0]
        began_at, numbers, asked = now[0], random.Random(29), 0
        pairs = [(guard, key) for guard in range(GUARDS) for key in keys]
        due = [(began_at + numbers.uniform(0, TOKEN_SECONDS), pair) for pair in pairs]
        in_first_hour = 0
        while (first := min(due))[0] < began_at + HOURS * 3600:
            due.remove(first)
            now[0], pair = first
            async with app.state.database.session() as session:
                context = RequestContext(session, app.state.clock())
                claims = (await exchange.exchange(context, pair[1])).verified.claims
            asked += 1
            left = claims.expires_at - now[0]
            due.append((now[0] + left * 0.8, pair))
            if now[0] < began_at + 3600:
                in_first_hour = signed[0]
    later = (signed[0] - in_first_hour) / ((HOURS - 1) * 3600)
    print(
        f"{GUARDS} guards, {KEYS} keys, {HOURS} hours: {asked} exchanges, {signed[0]} signatures;"
        f" 10,000 keys need {later / KEYS * 10_000:.1f} a second, whatever the number of guards"
    )


async def table(url: str, number: int) -> None:
    async with started(url) as app:
        await add_keys(app.state.database, number)
    began_at = time.perf_counter()
    async with started(url) as app:
        ready = time.perf_counter() - began_at
        lag = asyncio.create_task(longest_turn())
        await loaded(app)
        took = time.perf_counter() - began_at - ready
        lag.cancel()
        live_keys: LiveKeys = app.state.live_keys
        buckets = live_keys._fingerprints._buckets  # noqa: SLF001 - to measure it
        size = sum(sys.getsizeof(bucket) for bucket in buckets)
        forged = [fingerprint_of(hash_key(generate_key())) for _ in range(10_000)]
        began_at = time.perf_counter()
        assert not any(one in live_keys._fingerprints for one in forged)  # noqa: SLF001 - not public
        look_up = (time.perf_counter() - began_at) / len(forged)
        known = (await add_keys(app.state.database, 50))[:50]
        for key in known:
            live_keys._add(hash_key(key)[:8].hex())  # noqa: SLF001 - as the feed does
        first = []
        for key in known:
            asked_at = time.perf_counter()
            await ask(app, "GET", "/verify", authorization=f"Bearer {key}")
            first.append((time.perf_counter() - asked_at) * 1000)
    print(
        f"{number:,} keys in the table: start {ready:.2f} s, loaded {took:.2f} s later,"
        f" longest turn of the event loop {max(TURNS) * 1000:.0f} ms, {size / 1e6:.2f} MB"
        f" ({size / max(number, 1):.1f} bytes a key), look-up {look_up * 1e6:.2f} us,"
        f" first sight {median(first):.2f} ms"
    )
    TURNS[:] = [0.0]


TURNS = [0.0]


async def longest_turn() -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        TURNS.append(time.perf_counter() - before - 0.005)


def flood(url: str, directory: Path, per_second: float, server_of: Any) -> None:
    async def prepare() -> str:
        async with started(url) as app:
            return (await add_keys(app.state.database, 1))[0]

    key = asyncio.run(prepare())
    forged = [verify(generate_key()) for _ in range(5_000)]
    variables = {"DATABASE_URL": url, "LOG_LEVEL": "info"}
    with hourpass(directory, variables) as server, get_context("spawn").Pool(2) as pool:
        time.sleep(2)  # loads the keys

        def good() -> Any:
            load = Load(server.port, [verify(key)], seconds=5, per_second=per_second / 5)
            return pool.apply_async(drive, (load,))

        good().get(60)  # the first sight
        alone = good().get(60)
        before = queries(server_of)
        bad = Load(server.port, forged, seconds=7, per_second=per_second)
        other = pool.apply_async(drive, (bad,))
        time.sleep(1)
        beside = good().get(60)
        refused = other.get(60)
        after = queries(server_of)
    statements = "" if before is None else f"; statements about keys: {after - before}"
    print(
        f"flood of {refused.rate:,.0f} forged keys a second ({dict(refused.statuses)}) beside"
        f" {beside.rate:,.0f} good calls ({dict(beside.statuses)}): p99 of the good ones"
        f" {beside.latency(0.99) * 1000:.1f} ms, alone {alone.latency(0.99) * 1000:.1f}{statements}"
    )


def queries(server: Any) -> Any:
    """How often PostgreSQL has read the table of keys."""
    if server is None:
        return None
    found = server.psql(
        "\\c bench\nSELECT pg_sleep(1); SELECT 'scans=' || seq_scan + idx_scan"
        " FROM pg_stat_user_tables WHERE relname = 'api_keys'"
    )
    return int(found.split("scans=")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--per-second", type=float, default=5_000)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--only", choices=["checks", "table", "flood", "guards"])
    options = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="hourpass-") as name:
        directory = Path(name)
        with postgres(directory) if options.postgresql else nullcontext() as server:

            def new_url(number: int) -> str:
                if server is None:
                    return f"sqlite:///{directory}/{number}.db"
                server.psql("DROP DATABASE IF EXISTS bench WITH (FORCE)")
                server.psql("CREATE DATABASE bench")
                return str(server.get_uri("bench"))

            if options.only in (None, "checks"):
                asyncio.run(checks(new_url(1)))
            for number in (0, options.keys) if options.only in (None, "table") else ():
                asyncio.run(table(new_url(2 + number), number))
            if options.only in (None, "flood"):
                flood(new_url(3), directory, options.per_second, server)
            if options.only in (None, "guards"):
                asyncio.run(guards(new_url(4)))


if __name__ == "__main__":
    main()
