"""Measures how much shared data one ordinary user can create within the limits.

    python -m benchmarks.limits

A script repeats the same action as fast as the service responds, on a SQLite file. What was added
is counted in two periods of the same length. The figure for an hour is the first period, which
uses up the bursts, plus the second period scaled to the rest of the hour.
"""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import httpx

from benchmarks.servers import hourpass

TASKS = 8
PAUSE = 0.2  # seconds, after a 429
USER = {"username": "lancelot", "password": "knight of the cart"}
STAYING = {**USER, "grant_type": "password", "scope": "offline_access"}

Answers = Counter[int]
Round = Callable[[httpx.AsyncClient, Answers], Awaitable[None]]


async def send(
    client: httpx.AsyncClient, answers: Answers, path: str, **options: object
) -> dict[str, str]:
    answer = await client.post(path, **options)  # type: ignore[arg-type] # httpx checks them
    answers[answer.status_code] += 1
    if answer.status_code == 429:
        await asyncio.sleep(PAUSE)
    body: dict[str, str] = answer.json() if answer.status_code == 200 else {}
    return body


def renew_and_revoke() -> Round:
    held: dict[str, str] = {}

    async def round_(client: httpx.AsyncClient, answers: Answers) -> None:
        nonlocal held
        grant = {"grant_type": "refresh_token", "refresh_token": held.get("refresh_token", "")}
        got = await send(client, answers, "/token", data=grant if held else STAYING)
        if got:
            held = got
            await send(client, answers, "/revoke", data={"token": held["access_token"]})

    return round_


def open_and_end_sessions() -> Round:
    async def round_(client: httpx.AsyncClient, answers: Answers) -> None:
        if got := await send(client, answers, "/token", data=STAYING):
            await send(client, answers, "/revoke", data={"token": got["refresh_token"]})

    return round_


def log_out_everywhere() -> Round:
    async def round_(client: httpx.AsyncClient, answers: Answers) -> None:
        if got := await send(client, answers, "/token", json=USER):
            bearer = {"Authorization": f"Bearer {got['token']}"}
            await send(client, answers, "/me/logout-everywhere", headers=bearer)

    return round_


def log_in() -> Round:
    async def round_(client: httpx.AsyncClient, answers: Answers) -> None:
        await send(client, answers, "/token", json=USER)

    return round_


WAYS = {
    "renew and revoke": renew_and_revoke,
    "open and end sessions": open_and_end_sessions,
    "log out everywhere": log_out_everywhere,
    "log in": log_in,
}


def rows(database: Path) -> tuple[int, int]:
    """Entries of the feed, rows of the audit log."""
    with sqlite3.connect(database) as connection:
        (feed,) = connection.execute("SELECT count(*) FROM revocations").fetchone()
        (audit,) = connection.execute("SELECT count(*) FROM audit_log").fetchone()
    return feed, audit


async def measure(url: str, database: Path, make_round: Callable[[], Round], seconds: int) -> str:
    answers: Answers = Counter()

    async def go_on() -> None:
        round_ = make_round()
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while True:
                await round_(client, answers)

    async with httpx.AsyncClient(base_url=url) as client:
        new = {**USER, "email": "lancelot@camelot.example"}
        (await client.post("/register-user", json=new)).raise_for_status()
    counts = [rows(database)]
    tasks = [asyncio.create_task(go_on()) for _ in range(TASKS)]
    for _ in range(2):
        await asyncio.sleep(seconds)
        counts.append(rows(database))
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    figures = []
    for before, between, after in zip(*counts, strict=True):
        first, second = between - before, after - between
        hour = first + second * (3600 / seconds - 1)
        figures.append(f"{first:>8,}{second:>8,}{hour:>10,.0f}")
    return "  ".join(figures) + f"   {dict(answers)}"


@click.command()
@click.option("--seconds", default=180, help="Each of the two spans.")
def main(seconds: int) -> None:
    print(
        f"{'':<24}{'feed: 1st':>10}{'2nd':>6}{'hour':>10}{'audit: 1st':>12}{'2nd':>6}{'hour':>10}"
    )
    for name, make_round in WAYS.items():
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            database = directory / "limits.db"
            variables = {"DATABASE_URL": f"sqlite:///{database}", "LOG_LEVEL": "error"}
            with hourpass(directory, variables) as server:
                url = f"http://127.0.0.1:{server.port}"
                line = asyncio.run(measure(url, database, make_round, seconds))
        print(f"{name:<24}  {line}", flush=True)


if __name__ == "__main__":
    main()
