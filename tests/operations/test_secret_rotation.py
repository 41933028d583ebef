"""SECRET_KEY is rotated in four steps, while workers run. Nobody has to log in again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, insert, select, update

from app.audit.models import Entry
from app.cli.main import main
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.http import access_log
from app.secret_rotation import encrypted_rows, heartbeat
from app.secret_rotation.encrypted_rows import count_secrets, encrypt_with_first
from app.secret_rotation.heartbeat import KEPT_FOR, MAX_USED_KEYS, Heartbeat, list_workers
from app.secret_rotation.models import KeyHolder, UsedKey
from app.security.encryption import fingerprints
from app.settings import Settings
from app.tables import metadata
from app.tokens.signing_keys.models import StoredKey
from tests.support.apps import started_client
from tests.support.authenticator import Authenticator, enroll, log_in_with
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import CHEAP_HASHING, Clock, make_settings
from tests.support.users import GALAHAD, LANCELOT, log_in, register, token_holds
from tests.support.waiting import until

OLD = "4f1d9be07c52a68e3f90b1d27ac4850e9d6b3c71f8a2e540"
NEW = "b83c05d1e9724f6ab0d8c2537e91f46ad50c8b7e2f3914c6"
FIRST, SECOND = "camelot:11", "camelot:22"

Command = Callable[..., Awaitable[Result]]
Start = Callable[[str, str], "asynccontextmanager[AsyncClient]"]


@pytest.fixture
def hourpass(database_url: str) -> Command:
    """The command with a SECRET_KEY, beside the running workers."""

    async def run(*arguments: str, secret_key: str, stdin: str = "") -> Result:
        access_log.request_log.flush()
        access_log.request_log.configure(enabled=False, as_text=False)
        variables = {**CHEAP_HASHING, "DATABASE_URL": database_url, "SECRET_KEY": secret_key}
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ["secrets", *arguments], input=stdin, env=variables
        )
        for value in (OLD, NEW):
            assert value not in result.output
        return result

    return run


@pytest.fixture
def names() -> dict[str, str]:
    """The fingerprints."""
    settings = make_settings("sqlite:///x.db", secret_key=f"{OLD},{NEW}")
    return dict(zip((OLD, NEW), fingerprints(settings), strict=True))


@asynccontextmanager
async def worker(
    database_url: str, secret_key: str, name: str, clock: Clock
) -> AsyncIterator[AsyncClient]:
    """A worker of that name, which records its values as it starts, and forgets them as it ends.
    Its heart beats by the real clock, as the command does."""
    settings = make_settings(database_url, secret_key=secret_key)
    database = Database(settings)
    beat = Heartbeat(database, settings, name)
    async with started_client(settings, clock) as client:
        await beat.beat()
        yield client
        await beat.forget()
    await database.close()


class Court:
    """What people have from before, and what they do at each worker."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens: list[str] = []
        self.authenticators: dict[str, Authenticator] = {}

    async def enroll(self, client: AsyncClient, person: dict[str, str]) -> None:
        await register(client, person)
        self.authenticators[person["username"]] = await enroll(client, person, self.clock)

    async def is_served(self, *clients: AsyncClient) -> None:
        for client in clients:
            for token in self.tokens:
                assert await token_holds(client, token)
            for person in (LANCELOT, GALAHAD):
                if app := self.authenticators.get(person["username"]):
                    answer = await log_in_with(client, person, app.next_code())
                    assert answer.status_code == 200, answer.text
                    self.tokens.append(answer.json()["token"])


async def stored(database_url: str) -> list[str]:
    """All secrets as they are stored."""
    database = Database(make_settings(database_url))
    async with database.session() as session:
        found = [
            secret
            for column in (SecondFactor.secret, StoredKey.private_key)
            for secret in await session.scalars(select(column))
        ]
    await database.close()
    return found


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    for part in parts:
        assert part in result.output


async def test_a_rotation_interrupts_nothing_at_any_of_its_steps(
    database_url: str, clock: Clock, hourpass: Command, names: dict[str, str]
) -> None:
    court = Court(clock)
    both = f"{OLD},{NEW}"
    async with worker(database_url, OLD, FIRST, clock) as second:
        result = await hourpass("rotate", secret_key=OLD)
        assert "[>] 1." in result.output, result.output  # it encrypted the key of the first start
        await court.enroll(second, LANCELOT)
        async with worker(database_url, both, SECOND, clock) as first:
            await court.is_served(first, second)
            result = await hourpass("rotate", "--yes", secret_key=both)
            assert_refused(result, f"do not have the value {names[NEW]}: {FIRST} (seen", "[>] 1.")
            # Even to who goes on with the next step, though it is too early for that.
            result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
            assert_refused(result, f"do not have the value {names[NEW]}: {FIRST} (seen")
    before = await stored(database_url)

    async with worker(database_url, both, FIRST, clock) as second:
        result = await hourpass("rotate", "--yes", secret_key=both)
        assert (result.exit_code, "[>] 2." in result.output) == (0, True), result.output
        async with worker(database_url, f"{NEW},{OLD}", SECOND, clock) as first:
            await court.enroll(first, GALAHAD)
            await court.is_served(first, second)
            result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
            assert_refused(result, f"another value than {names[NEW]}: {FIRST} (seen", "[>] 2.")
    assert set(before) < set(await stored(database_url))

    async with (
        worker(database_url, f"{NEW},{OLD}", FIRST, clock) as first,
        worker(database_url, f"{NEW},{OLD}", SECOND, clock) as second,
    ):
        result = await hourpass("rotate", secret_key=f"{NEW},{OLD}", stdin="n\n")
        assert_refused(result, "[>] 3.", "Aborted")
        await court.is_served(first, second)
        result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
        assert result.exit_code == 0, result.output
        assert "Encrypted 2 secrets." in result.output
        assert f"[>] 4. Remove the old value" in result.output
        assert f"Remove {names[OLD]}." in result.output
        await court.is_served(first, second)
        assert not {*before} & {*await stored(database_url)}
        async with worker(database_url, NEW, "camelot:33", clock) as third:
            await court.is_served(first, second, third)
            result = await hourpass("rotate", secret_key=NEW)
            assert f"still have other values: {FIRST} (seen" in result.output
    async with worker(database_url, NEW, FIRST, clock) as first:
        await court.is_served(first)
        result = await hourpass("rotate", secret_key=NEW)
        assert "No rotation is under way." in result.output
    database = Database(make_settings(database_url))
    async with database.session() as session:
        of_rotations = select(Entry.details).where(Entry.action == "secret_key.rotate")
        (details,) = await session.scalars(of_rotations)
    await database.close()
    assert names[NEW] in str(details)
