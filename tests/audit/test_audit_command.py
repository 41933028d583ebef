"""`hourpass audit` prints what `GET /audit` returns, and follows the log without gaps."""

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import insert

from app.audit.models import Entry
from app.cli import audit
from app.cli.main import main
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.settings import ROOT
from tests.support.audit import add_entries
from tests.support.commands import Command, assert_refused, hourpass
from tests.support.forked_process import ForkedProcess
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, bearer, log_in, register
from tests.support.waiting import until

__all__ = ["hourpass"]

WRONG = {**LANCELOT, "password": "wrong"}


async def test_it_prints_the_entries_of_the_api_oldest_first(
    hourpass: Command, client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    await register(client, GALAHAD)
    await log_in(client, LANCELOT)
    await client.post("/token", json=WRONG)
    over_http = (await client.get("/audit", headers=bearer(arthurs_token))).json()["entries"]
    printed = await hourpass("audit", "--json")
    assert printed.exit_code == 0
    assert [json.loads(line) for line in printed.stdout.splitlines()] == over_http[::-1]
    of_lancelot = [entry for entry in over_http if lancelot in ids_in(entry)]
    for options, expected in (
        (("--limit", "2"), over_http[:2]),
        (("--limit", "0"), []),
        (("--user", "LANCELOT"), of_lancelot),
        (("--user-id", str(lancelot)), of_lancelot),
        (("--refused",), over_http[:1]),
        (("--user", "lancelot", "--succeeded", "--action", "login"), of_lancelot[1:2]),
        (("--action", "user."), [e for e in over_http if e["action"].startswith("user.")]),
        (("--until", "2026-11-23T12:00:00Z"), []),
        (("--since", "2026-11-23T12:00:00Z"), over_http),
    ):
        found = await hourpass("audit", "--json", *options)
        assert found.exit_code == 0, found.output
        assert [json.loads(line) for line in found.stdout.splitlines()] == expected[::-1], options


def ids_in(entry: dict[str, Any]) -> tuple[int | None, int | None]:
    return entry["actor_id"], entry["subject_id"]


@on_sqlite
async def test_the_table_has_names_and_the_ids_of_deleted_users(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    galahad = await register(client, GALAHAD)
    await log_in(client, LANCELOT)
    assert (await hourpass("users", "delete", "galahad", "--yes")).exit_code == 0
    printed = await hourpass("audit")
    assert printed.exit_code == 0, printed.exception
    head, *rows = printed.stdout.splitlines()
    assert head.split() == ["AT", "ACTION", "ACTOR", "SUBJECT", "RESULT", "ADDRESS", "DETAILS"]
    (login,) = [row for row in rows if " login " in row]
    assert login.split()[:6] == [
        "2026-11-23T12:00:00Z",
        "login",
        "lancelot",
        "lancelot",
        "succeeded",
        "127.0.0.1",
    ]
    (removed,) = [row for row in rows if "user.remove" in row]
    assert f"user {galahad}" in removed


INVALID_OPTIONS = {
    "--user arthur --user-id 1": "either --user or --user-id",
    "--follow --until 2026-11-23": "exclude each other",
    "--since yesterday": "--since: Must be a date and time",
    "--action LOGIN": "--action: ",
    "--limit 10001": "is not in the range",
}


@on_sqlite
async def test_invalid_options_are_named(hourpass: Command, subtests: pytest.Subtests) -> None:
    for options, reason in INVALID_OPTIONS.items():
        with subtests.test(options):
            result = await hourpass("audit", *options.split())
            assert result.exit_code == 2
            assert reason in result.output
    assert_refused(await hourpass("audit", "--user", "mordred"), "User not found")


@on_sqlite
async def test_follow_prints_new_entries_until_it_is_interrupted(
    database_url: str, client: AsyncClient, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    process = ForkedProcess(
        *("audit", "--follow", "--json", "--limit", "1"),
        directory=str(ROOT),
        variables=environment(DATABASE_URL=database_url),
        output=output,
    )

    def printed() -> list[dict[str, Any]]:
        """Each line is there at once, although the output is no terminal."""
        lines = output.read_text().splitlines() if output.exists() else []
        return [json.loads(line) for line in lines]

    try:
        await until(lambda: len(printed()) == 1)
        lancelot = await register(client, LANCELOT)
        await log_in(client, LANCELOT)
        await until(lambda: len(printed()) == 3)
        before, registered, logged_in = printed()
        assert registered["id"] > before["id"]
        assert (registered["action"], registered["subject_id"]) == ("user.register", lancelot)
        assert (logged_in["action"], logged_in["actor_id"]) == ("login", lancelot)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, SERVE_TIMEOUT_SECONDS) == 0
        assert len(printed()) == 3  # and nothing else
    finally:
        process.kill()


@on_sqlite
def test_a_reader_that_closes_the_pipe_is_no_outage_of_the_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    reading, writing = os.pipe()
    os.close(reading)  # before the first line
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            main(["audit"])
        pipe.flush()  # as at the end of the process
    assert (ended.value.code, capsys.readouterr().err) == (1, "")


@on_postgresql
async def test_follow_prints_an_entry_whose_transaction_was_slow(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a smaller id than one that was committed, and printed, before it."""
    monkeypatch.setattr(audit, "POLL_SECONDS", 0.01)
    await add_entries(database, clock, 1)
    entry = {
        "at": clock(),
        "action": "slow",
        "succeeded": True,
        "ip_address": "",
        "user_agent": "",
        "details": "{}",
    }
    async with database.session() as reading, database.session() as writing, asyncio.timeout(20):
        context = RequestContext(reading, datetime.now(UTC))
        (first,) = await audit._latest(context, [], 1)
        await begin_write(writing)
        await writing.execute(insert(Entry), [entry])
        await add_entries(database, clock, 3, action="fast")
        following = audit._follow(context, [], first.id - 1, [first.id], asyncio.Event())
        assert [later.action for later in await anext(following)] == ["fast"] * 3
        await writing.commit()
        assert [later.action for later in await anext(following)] == ["slow"]


async def test_follow_reads_many_entries_page_by_page_and_none_twice(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(audit, "OVERLAP_SECONDS", 0.0)
    monkeypatch.setattr(audit, "_PAGE_SIZE", 2)
    await add_entries(database, clock, 5)
    async with database.session() as session, asyncio.timeout(20):
        context = RequestContext(session, datetime.now(UTC))
        newest = await audit._newest_id(context)
        following = audit._follow(context, [], newest - 5, [], asyncio.Event())
        found: list[int] = []
        while len(found) < 5:
            found += [entry.id for entry in await anext(following)]
        await add_entries(database, clock, 1)
        found += [entry.id for entry in await anext(following)]
    assert found == list(range(newest - 4, newest + 2))
