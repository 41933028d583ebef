"""Measures how a backup of a large SQLite database slows down the service.

    python -m benchmarks.backup [--megabytes 1000] [--seconds 20] [--target /mnt/backups]

The load is 100 token checks a second, all of one known token, and 10 logins a second, which write.
It runs without a backup, beside a process that only computes, beside a plain backup, and beside an
encrypted one. The output includes the growth of the write-ahead log.
"""

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx

from app.settings import ROOT
from tests.support.processes import environment
from tests.support.service_process import serving
from tests.support.settings import CHEAP_HASHING
from tests.support.users import LANCELOT

LIMIT_SECONDS = 900
CHECKS_PER_SECOND, LOGINS_PER_SECOND = 100, 10
PASSPHRASE = "the lady of the lake"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--target", type=Path, help="directory on another disk for the backups")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hourpass-", dir="/var/tmp") as directory,
        tempfile.TemporaryDirectory(prefix="hourpass-", dir=arguments.target) as target,
    ):
        place = Path(target) if arguments.target else Path(directory)
        asyncio.run(measure(Path(directory), place, arguments.megabytes, arguments.seconds))


async def measure(directory: Path, target: Path, megabytes: int, seconds: float) -> None:
    path = directory / "hourpass.db"
    url = f"sqlite:///{path}"
    quiet = {"LOG_LEVEL": "error", "USER_ACTIONS_PER_HOUR": "1000000", "ACCESS_LOG": "false"}
    passphrase = directory / "passphrase"
    passphrase.write_text(PASSPHRASE)
    async with asyncio.timeout(LIMIT_SECONDS):
        with serving(url, **quiet):
            pass  # migrates
        fill(path, megabytes)
        with serving(url, **quiet) as base_url:
            async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
                await client.post("/register-user", json=LANCELOT)
                token = (await client.post("/token", json=LANCELOT)).json()["token"]

                async def nothing() -> None:
                    await asyncio.sleep(seconds)

                def backup(name: str, *options: str) -> Callable[[], Awaitable[None]]:
                    return lambda: back_up(target / name, url, *options)

                async def compute() -> None:
                    code = f"import time; t = time.time()\nwhile time.time() < t + {seconds}: pass"
                    await asyncio.to_thread(
                        subprocess.run, [sys.executable, "-c", code], check=True
                    )

                encrypted = ("--passphrase-file", str(passphrase))
                await row("no backup", nothing, client, token, path)
                await row("a busy process", compute, client, token, path)
                await row("plain backup", backup("plain"), client, token, path)
                await row("encrypted backup", backup("encrypted", *encrypted), client, token, path)
                await row("no backup", nothing, client, token, path)
        with closing(sqlite3.connect(target / "plain")) as connection:
            assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        restored = directory / "restored.db"
        started = time.perf_counter()
        await run(
            f"sqlite:///{restored}",
            "restore",
            str(target / "encrypted"),
            *encrypted,
            "--previous",
            url,
        )
        print(f"restored, compared with the former one: {time.perf_counter() - started:.1f} s")


def fill(path: Path, megabytes: int) -> None:
    """With entries of the audit log, the largest table after a year."""
    details = json.dumps({"text": "x" * 900})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        while path.stat().st_size < megabytes * 10**6:
            with connection:
                connection.executemany(
                    "INSERT INTO audit_log (at, action, succeeded, address, user_agent, details)"
                    " VALUES (datetime('now'), 'login', 1, '192.0.2.1', 'benchmark', ?)",
                    [(details,)] * 50_000,
                )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def row(
    name: str,
    work: Callable[[], Awaitable[None]],
    client: httpx.AsyncClient,
    token: str,
    path: Path,
) -> None:
    """Print the latencies while something runs."""
    checks: list[float] = []
    logins: list[float] = []
    stopping = asyncio.Event()

    async def send(latencies: list[float], method: str, target: str, body: object) -> None:
        started = time.perf_counter()
        response = await client.request(method, target, json=body)
        latencies.append((time.perf_counter() - started) * 1000)
        assert response.status_code == 200, response.text

    async def repeat(
        rate: int, latencies: list[float], method: str, target: str, body: object = None
    ) -> None:
        """At this pace, however slow the answers."""
        started, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while not stopping.is_set():
                group.create_task(send(latencies, method, target, body))
                number += 1
                await asyncio.sleep(max(0, started + number / rate - time.perf_counter()))

    with largest_wal(path) as largest:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(CHECKS_PER_SECOND, checks, "GET", f"/token_status/{token}"))
            group.create_task(repeat(LOGINS_PER_SECOND, logins, "POST", "/token", LANCELOT))
            await work()
            elapsed = time.perf_counter() - started
            stopping.set()
    print(
        f"{name:<18}{elapsed:6.1f} s   checks {describe(checks)}   logins {describe(logins)}"
        f"   WAL {largest[0] / 1e6:.1f} MB",
        flush=True,
    )


def describe(latencies: list[float]) -> str:
    latencies.sort()
    at = [latencies[min(int(len(latencies) * q), len(latencies) - 1)] for q in (0.5, 0.99)]
    return f"{len(latencies):>5}: p50 {at[0]:6.1f}, p99 {at[1]:6.1f} ms"


@contextmanager
def largest_wal(path: Path) -> Iterator[list[int]]:
    sizes, stopping = [0], Event()
    wal = path.with_name(f"{path.name}-wal")

    def watch() -> None:
        while not stopping.wait(0.05):
            if wal.exists():
                sizes[0] = max(sizes[0], wal.stat().st_size)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        stopping.set()
        thread.join()


async def back_up(file: Path, url: str, *options: str) -> None:
    await run(url, "backup", str(file), *options)


async def run(url: str, *arguments: str) -> None:
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hourpass", *arguments],
        cwd=ROOT,
        env=environment(DATABASE_URL=url, **CHEAP_HASHING),
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
