"""Measures how far password guessing gets, and how it affects the owner of the account.

    python -m benchmarks.abuse

The guesses are spread over one hour of a simulated clock. The service runs in this process, on a
SQLite file, with the real password hash.
"""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from sqlalchemy import insert, update

from app.database import outbox
from app.database.engine import begin_write
from app.main import create_app
from app.security.rate_limits.models import AttemptCounter
from app.settings import Settings
from app.users.models import User

GUESSES = 10_000
SAMPLES = 300
HOME = "192.0.2.7"
TIMES = 12  # that the owner logs in from there, and as often from a new place each time
CHEAP = {"argon2_memory_kib": 8, "argon2_passes": 1}


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


async def log_in(app: FastAPI, address: str, username: str, password: str) -> int:
    return await post(app, address, "/token", username=username, password=password)


async def post(app: FastAPI, address: str, path: str, **members: str) -> int:
    """Returns the status of the response."""
    body = json.dumps(members).encode()
    length = str(len(body)).encode()
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
        "client": (address, 1),
        "server": ("hourpass.example", 80),
    }
    await app(scope, receive, send)
    return status


async def populate(app: FastAPI, names: list[str], *, enabled: bool = True) -> None:
    """Users whose password is `right`."""
    hashed = await app.state.services.passwords.hash("right")
    rows = [
        {
            "username": name,
            "username_folded": name,
            "email": f"{name}@camelot.example",
            "email_folded": f"{name}@camelot.example",
            "password_hash": hashed,
            "is_admin": False,
            "is_enabled": enabled,
            "created_at": app.state.clock(),
        }
        for name in names
    ]
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(insert(User), rows)
        await session.commit()


def of_500(number: int) -> str:
    return f"198.51.{number % 500 // 250}.{number % 250}"


async def attack(
    title: str, directory: Path, address: Callable[[int], str], account: Callable[[int], int]
) -> None:
    clock = Clock()
    url = f"sqlite:///{directory / title}.db"
    settings = Settings.model_validate({"database_url": url, **CHEAP})
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        await populate(app, [f"user{number}" for number in range(5_000)])
        await log_in(app, HOME, "user0", "right")
        guessed: Counter[int] = Counter()
        at_home, elsewhere = [], []
        for number in range(GUESSES):
            name = f"user{account(number)}"
            guessed[await log_in(app, address(number), name, f"guess {number}")] += 1
            clock.now += timedelta(hours=1) / GUESSES
            if number % (GUESSES // TIMES) == GUESSES // TIMES // 2:
                at_home.append(await log_in(app, HOME, "user0", "right"))
                new_place = f"192.0.2.{100 + number * TIMES // GUESSES}"
                elsewhere.append(await log_in(app, new_place, "user0", "right"))
    got_in = [f"{statuses.count(200)} of {len(statuses)}" for statuses in (at_home, elsewhere)]
    print(f"| {title} | {guessed[401]:,} of {GUESSES:,} | {got_in[0]} | {got_in[1]} |")


async def timing(directory: Path) -> None:
    app = create_app(Settings.model_validate({"database_url": f"sqlite:///{directory}/timing.db"}))
    async with app.router.lifespan_context(app):
        await populate(app, [f"wrong{number}" for number in range(SAMPLES)])
        await populate(app, [f"disabled{number}" for number in range(SAMPLES)], enabled=False)
        await populate(app, ["throttled"])
        for name in ("throttled", "nobody at all"):
            for _ in range(6):
                await log_in(app, "127.0.0.1", name, "guess")
        names = {
            "unknown": "unknown{}",
            "wrong": "wrong{}",
            "disabled": "disabled{}",
            "throttled, known": "throttled",
            "throttled, unknown": "nobody at all",
        }
        taken: dict[str, list[float]] = {kind: [] for kind in names}
        for number in range(SAMPLES):
            # In another order each time; and nobody's delay ends meanwhile.
            async with app.state.database.session() as session:
                await begin_write(session)
                later = app.state.clock() + timedelta(minutes=15)
                held = update(AttemptCounter).where(AttemptCounter.failures >= 5)
                await session.execute(held.values(blocked_until=later))
                await session.commit()
            for kind in Random(number).sample(sorted(names), len(names)):
                password = "right" if kind == "disabled" else "guess"
                started = perf_counter()
                status = await log_in(app, "127.0.0.1", names[kind].format(number), password)
                taken[kind].append(perf_counter() - started)
                assert status == (429 if kind.startswith("throttled") else 401)
    show(taken)


async def timing_of_resets(directory: Path) -> None:
    """There is no mail server. The outbox is read once, at the start."""
    outbox.POLL_SECONDS = 3600
    mail = {"smtp_url": "smtp://127.0.0.1:9", "mail_from": "no-reply@camelot.example"}
    url = f"sqlite:///{directory}/resets.db"
    app = create_app(Settings.model_validate({"database_url": url, **mail}))
    async with app.router.lifespan_context(app):
        await populate(app, [f"known{number}" for number in range(SAMPLES)])
        taken: dict[str, list[float]] = {"known": [], "unknown": []}
        for number in range(SAMPLES):
            for kind in Random(number).sample(sorted(taken), len(taken)):
                email = f"{kind}{number}@camelot.example"
                started = perf_counter()
                status = await post(app, "127.0.0.1", "/password-resets", email=email)
                taken[kind].append(perf_counter() - started)
                assert status == 202
    show(taken)


def show(taken: dict[str, list[float]]) -> None:
    for kind, seconds in taken.items():
        print(f"| {kind} | {median(seconds) * 1000:.2f} ms |")


async def main() -> None:
    print("| 10,000 guesses in an hour | were checked | owner got in, known address | new one |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        await attack("one address, one account", directory, lambda _: "198.51.100.1", lambda _: 0)
        await attack(
            "one address, 5000 accounts", directory, lambda _: "198.51.100.1", lambda n: n % 5_000
        )
        await attack("500 addresses, one account", directory, of_500, lambda _: 0)
        await attack("500 addresses, 5000 accounts", directory, of_500, lambda n: n % 5_000)
        print("\n| refused login | median of 300 |\n|---|---|")
        await timing(directory)
        print("\n| address that asks for a new password | median of 300 |\n|---|---|")
        await timing_of_resets(directory)


if __name__ == "__main__":
    asyncio.run(main())
