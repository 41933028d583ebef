"""`hourpass doctor` says for each thing that it checks that it is right, or what to do. It checks
what it can, whatever else is broken, and changes nothing."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from httpx import AsyncClient
from sqlalchemy import text

from app.database.engine import Database
from app.database.migrations import HEAD
from app.operations.doctor import checks, clock, disk, limits, mail, proxy
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from tests.support.commands import Command, hourpass, run
from tests.support.mail_server import MailServer
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock, make_settings, utc_now
from tests.support.users import ARTHUR, log_in

__all__ = ["hourpass"]

SECRET = "5f0c1d2e3a4b5c6d7e8f90a1b2c3d4e5"
SENDER = {"MAIL_FROM": "no-reply@camelot.example"}


def findings_in(result: Result) -> dict[str, list[tuple[str, str]]]:
    """By subject: the states and the texts."""
    assert result.exit_code in (0, 1), result.output
    found: dict[str, list[tuple[str, str]]] = {}
    for line in result.stdout.splitlines():
        finding = json.loads(line)
        found.setdefault(finding["subject"], []).append((finding["state"], finding["text"]))
    has_error = any(state == "error" for states in found.values() for state, _ in states)
    assert result.exit_code == int(has_error)
    return found


def create_file(path: Path, content: bytes = b"") -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def change_mode(path: Path, mode: int) -> int:
    """Returns the mode before."""
    before = path.stat().st_mode
    path.chmod(mode)
    return before


def states(found: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    return {subject: "+".join(state for state, _ in texts) for subject, texts in found.items()}


async def test_a_healthy_service_has_no_errors(
    hourpass: Command, client: AsyncClient, database_url: str, tmp_path: Path
) -> None:
    assert await log_in(client, ARTHUR)
    assert (await hourpass("secrets", "rotate", "--yes", SECRET_KEY=SECRET)).exit_code == 0
    is_file = database_url.startswith("sqlite")
    if is_file:
        await hourpass("backup", str(tmp_path / "hourpass.backup"))
    found = findings_in(await hourpass("doctor", "--json", SECRET_KEY=SECRET))
    expected = {
        "settings": "ok",
        "SECRET_KEY": "ok",
        **({"database file": "ok"} if is_file else {}),
        "database": "ok+ok",
        **({"processes": "ok"} if is_file else {"pool": "ok"}),
        "clock": "ok",
        "disk": "ok",
        "signing keys": "ok",
        "secrets": "ok",
        "administrators": "ok",
        "backups": "ok",
        "mail": "ok",
        "webhooks": "ok",
        "proxy": "ok",
        "connections": "ok",
    }
    assert {name: state for name, state in states(found).items() if name != ".env"} == expected
    assert found["database"][0][1].endswith(f"has the schema {HEAD}.")
    assert found["administrators"][0][1].startswith("1 can log in, 0 of them")
    table = await hourpass("doctor", SECRET_KEY=SECRET)
    assert (table.exit_code, table.stderr) == (0, "Everything is fine.\n")
    assert table.stdout.splitlines()[0].split() == ["STATE", "SUBJECT", "TEXT"]


def test_invalid_settings_are_errors_and_the_rest_is_left_out() -> None:
    result = run("doctor", "--json", PORT="eighty", WORKERS="0")
    found = findings_in(result)
    assert [state for state, _ in found["settings"]] == ["error", "error"]
    assert found["settings"][0][1] == "PORT must be a whole number from 0 to 65535"
    left_out = [subject for subject, _ in checks.CHECKS if subject not in ("settings", "files")]
    assert len(left_out) == len(checks.CHECKS) - 2
    for subject in left_out:
        assert found[subject] == [("warning", "Not checked: the settings are not valid.")]


def test_a_database_that_is_missing_is_one_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    found = findings_in(run("doctor", "--json", DATABASE_URL=f"sqlite:///{path}"))
    said = f"{path} does not exist. Run `hourpass migrate`, or correct DATABASE_URL."
    assert found["database"] == [("error", said)]
    for subject in ("clock", "signing keys", "administrators"):
        assert found[subject] == [("warning", "Not checked: the database cannot be used.")]
    assert states(found)["disk"] == states(found)["proxy"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_missing_and_a_server_that_does_not_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'no' / 'such.db'}"
    found = findings_in(run("doctor", "--json", DATABASE_URL=url))
    assert states(found)["database"] == "error"
    assert found["disk"] == [("warning", "Not checked: there is no directory for the database.")]
    url = "postgresql://arthur:excalibur@127.0.0.1:1/camelot"
    found = findings_in(run("doctor", "--json", DATABASE_URL=url))
    assert found["database"] == [("error", "The database cannot be used: connection refused.")]
    assert "excalibur" not in json.dumps(found)


def test_a_database_without_tables_is_an_error(empty_database_url: str) -> None:
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()
    found = findings_in(run("doctor", "--json", DATABASE_URL=empty_database_url))
    said = "The database has no tables yet. Run `hourpass migrate`."
    assert found["database"] == [("error", said)]


@on_sqlite
async def test_a_wrong_secret_key_is_an_error(hourpass: Command, client: AsyncClient) -> None:
    assert await log_in(client, ARTHUR)
    assert (await hourpass("signing-keys", "list", SECRET_KEY=SECRET)).exit_code == 0
    other = findings_in(await hourpass("doctor", "--json", SECRET_KEY=SECRET[::-1]))
    assert states(other)["signing keys"] == "error"
    assert "under another SECRET_KEY" in other["signing keys"][0][1]
    none = findings_in(await hourpass("doctor", "--json"))
    assert "Set SECRET_KEY" in none["signing keys"][0][1]
    assert states(none)["SECRET_KEY"] == "warning"


@on_postgresql
async def test_more_connections_than_the_server_has_are_a_warning(hourpass: Command) -> None:
    found = findings_in(await hourpass("doctor", "--json", WORKERS="200", DATABASE_POOL_SIZE="100"))
    ((state, said),) = found["pool"]
    assert state == "warning"
    assert said.startswith("200 workers use up to 20400 connections, and the server has ")


@on_sqlite
async def test_an_old_signing_key_and_a_lack_of_administrators_are_warnings(
    hourpass: Command, client: AsyncClient, database: Database
) -> None:
    await log_in(client, ARTHUR)
    async with database.session() as session:
        await session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})
        await session.execute(text("UPDATE users SET is_enabled = 0"))
        await session.execute(text("UPDATE signing_keys SET created_at = '2020-01-01 00:00:00'"))
        await session.commit()
    found = findings_in(await hourpass("doctor", "--json"))
    assert states(found)["administrators"] == states(found)["signing keys"] == "warning"
    assert "hourpass users create NAME --admin" in found["administrators"][0][1]
    assert "should have been rotated" in found["signing keys"][0][1]
    off = findings_in(await hourpass("doctor", "--json", KEY_ROTATION_DAYS="0"))
    assert states(off)["signing keys"] == "ok"


@on_sqlite
async def test_the_shared_secret_needs_no_rotation_and_administrators_may_need_a_second_factor(
    hourpass: Command, client: AsyncClient
) -> None:
    await log_in(client, ARTHUR)
    hs256 = {"SIGNING_ALGORITHM": "HS256", "HS256_SECRET": SECRET}
    found = findings_in(await hourpass("doctor", "--json", ADMIN_SECOND_FACTOR="required", **hs256))
    assert found["signing keys"] == [
        ("ok", "HS256_SECRET signs the tokens. It does not rotate by itself.")
    ]
    assert states(found)["administrators"] == "warning"
    assert "so one has to set it up" in found["administrators"][0][1]


def test_before_the_first_start_there_is_no_key_yet(sqlite_template: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    found = findings_in(run("doctor", "--json", DATABASE_URL=url))
    assert states(found)["signing keys"] == "ok"
    assert "The first start of the service generates one" in found["signing keys"][0][1]


@on_sqlite
async def test_the_networks_of_proxies_are_named(hourpass: Command) -> None:
    proxies = {"ISSUER": "https://auth.example", "TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    found = findings_in(await hourpass("doctor", "--json", **proxies))
    assert found["proxy"] == [("ok", "Client addresses come from 10.0.0.0/8, ::1/128.")]


@on_sqlite
async def test_an_entry_of_the_future_is_a_warning(
    hourpass: Command, client: AsyncClient, clock: Clock
) -> None:
    clock.now = utc_now() + timedelta(hours=1)
    await log_in(client, ARTHUR)
    found = findings_in(await hourpass("doctor", "--json"))
    assert states(found)["clock"] == "ok+warning"
    assert "which is still to come" in found["clock"][1][1]


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0, "ok"), (4, "ok"), (-6, "warning"), (59, "warning"), (61, "error"), (-3600, "error")],
)
def test_the_clocks_may_differ_by_five_seconds(seconds: int, state: str) -> None:
    now = utc_now()
    found = clock.compare(now, now + timedelta(seconds=seconds))
    assert found.state == state
    assert f"{abs(seconds)}.0 s" in found.text
    assert ("behind" in found.text) == (seconds > 0)


@pytest.mark.parametrize(
    ("mebibytes", "state"), [(99, "error"), (101, "warning"), (1023, "warning"), (1024, "ok")]
)
def test_the_disk_needs_room(tmp_path: Path, mebibytes: int, state: str) -> None:
    assert disk.judge(tmp_path, mebibytes * disk.MIB).state == state


@on_sqlite
async def test_a_long_log_of_sqlite_is_a_warning(
    hourpass: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LONG_WAL_BYTES", 10)
    create_file(Path(database_url.removeprefix("sqlite:///") + "-wal"), bytes(20))
    found = findings_in(await hourpass("doctor", "--json"))
    assert "keeps the database open" in found["disk"][1][1]


@on_sqlite
async def test_files_that_others_can_read_are_warnings(
    hourpass: Command, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(database_url.removeprefix("sqlite:///"))
    env_file = tmp_path / ".env"
    create_file(env_file)
    monkeypatch.setenv("ENV_FILE", str(env_file))
    change_mode(path, 0o600)
    change_mode(tmp_path, 0o700)
    for name, mode, subject, advice in (
        (env_file, 0o640, ".env", None),
        (env_file, 0o604, ".env", f"Run `chmod 600 {env_file}`"),
        (env_file, 0o660, ".env", f"Run `chmod 600 {env_file}`"),
        (path, 0o600, "database file", None),
        (path, 0o640, "database file", f"Run `chmod 600 {path}`"),
        (tmp_path, 0o777, "database file", f"Run `chmod o-w {tmp_path}`"),
        (tmp_path, 0o1777, "database file", None),
    ):
        before = change_mode(name, mode)
        found = findings_in(await hourpass("doctor", "--json"))[subject]
        change_mode(name, before)
        assert [state for state, _ in found] == (["warning"] if advice else ["ok"]), (name, mode)
        assert (advice or "no access") in found[0][1]


@on_sqlite
async def test_files_of_another_user_are_a_warning(
    hourpass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operations.doctor.files.os.geteuid", lambda: 4711)
    found = findings_in(await hourpass("doctor", "--json"))
    assert "belongs to another user" in found["database file"][0][1]


@pytest.mark.parametrize(
    ("changes", "state", "advice"),
    [
        ({}, None, None),
        ({"host": "::1"}, None, None),
        ({"host": "0.0.0.0"}, "warning", "listens to the network without TLS"),
        ({"issuer": "https://auth.example"}, "warning", "Set TRUSTED_PROXIES to its address"),
        ({"issuer": "https://a.example", "trusted_proxies": "127.0.0.1"}, None, None),
        ({"host": "0.0.0.0", "trusted_proxies": "10.0.0.0/8"}, None, None),
        ({"trusted_proxies": "127.0.0.1, 0.0.0.0/0"}, "error", "Name only your proxies"),
        ({"trusted_proxies": "::/0"}, "error", "Name only your proxies"),
    ],
)
def test_the_settings_of_a_proxy_fit_together(
    changes: dict[str, str], state: str | None, advice: str | None
) -> None:
    found = proxy.find_faults(make_settings("sqlite:///x.db", **changes))
    assert [finding.state for finding in found] == ([state] if state else [])
    assert not found or (advice and advice in found[0].text)


@on_sqlite
async def test_a_public_service_in_development_is_a_warning(hourpass: Command) -> None:
    found = findings_in(await hourpass("doctor", "--json", ISSUER="https://auth.example"))
    assert [state for state, _ in found["settings"]] == ["ok", "warning"]
    assert found["settings"][1][1].startswith("Set ENVIRONMENT=production: ")
    unknown = findings_in(await hourpass("doctor", "--json", REGISTRATIONS="closed"))
    assert states(unknown)["settings"] == "warning"
    assert "Did you mean REGISTRATION?" in unknown["settings"][0][1]


@pytest.mark.parametrize(
    ("wanted", "open_files", "state"),
    [
        (None, 20_000, "ok"),
        (None, 800, "warning"),
        (10_000, 20_000, "ok"),
        (10_000, 4_096, "warning"),
    ],
)
def test_the_open_files_limit_allows_the_connections(
    wanted: int | None, open_files: int, state: str
) -> None:
    settings = make_settings("sqlite:///x.db", max_connections=wanted)
    found = limits.judge(settings, open_files)
    assert found.state == state
    assert ("LimitNOFILE" in found.text) == (state == "warning")


@on_sqlite
async def test_mail_is_checked_without_a_message(
    hourpass: Command, mailbox: MailServer, tmp_path: Path
) -> None:
    found = findings_in(await hourpass("doctor", "--json", SMTP_URL=mailbox.url, **SENDER))
    assert states(found)["mail"] == states(found)["mail queue"] == "ok"
    assert (mailbox.messages, mailbox.recipients) == ([], [])
    closed = {"SMTP_URL": "smtp+plain://127.0.0.1:1", **SENDER}
    found = findings_in(await hourpass("doctor", "--json", **closed))
    assert found["mail"][0][0] == "error"
    assert "cannot be used (connect)" in found["mail"][0][1]
    (tmp_path / "texts" / "en").mkdir(parents=True)
    (tmp_path / "texts" / "en" / "test.txt").write_text("Dear $name")
    own = {"SMTP_URL": mailbox.url, "MAIL_TEMPLATES": str(tmp_path / "texts"), **SENDER}
    found = findings_in(await hourpass("doctor", "--json", **own))
    assert states(found)["mail"] == "error+ok"


@on_sqlite
async def test_mail_that_waits_for_long_is_a_warning(
    hourpass: Command, client: AsyncClient, mailbox: MailServer, database: Database
) -> None:
    await log_in(client, ARTHUR)
    mail_of = {"SMTP_URL": mailbox.url, **SENDER}
    invited = await hourpass("invitations", "create", "--email", "a@b.example", **mail_of)
    assert invited.exit_code == 0
    found = findings_in(await hourpass("doctor", "--json", **mail_of))
    assert found["mail queue"] == [("ok", "1 messages wait to be sent.")]
    async with database.session() as session:
        await session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})
        await session.execute(text("UPDATE outbox SET created_at = '2026-11-01 00:00:00'"))
        await session.commit()
    found = findings_in(await hourpass("doctor", "--json", **mail_of))
    assert states(found)["mail queue"] == "warning"


@on_sqlite
async def test_a_silent_mail_server_times_out(
    hourpass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "SERVER_SECONDS", 0.2)
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = {"SMTP_URL": f"smtp+plain://127.0.0.1:{port}", **SENDER}
        found = findings_in(await hourpass("doctor", "--json", **settings))
        for writer in held:
            writer.close()
    assert "no answer within 0 s" in found["mail"][0][1]


async def test_a_check_that_breaks_keeps_what_it_found_and_the_others_run() -> None:
    async def broken(_: System) -> AsyncIterator[Finding]:
        yield Finding("first", "ok", "Well.")
        raise ValueError("a value with a password")

    async def left_out(system: System) -> AsyncIterator[Finding]:
        yield Finding("x", "ok", str(system.database))

    system = System()
    assert await checks.run_check(system, "second", broken) == [
        Finding("first", "ok", "Well."),
        Finding("second", "error", "The check failed with ValueError."),
    ]
    assert await checks.run_check(system, "third", left_out) == [
        Finding("third", "warning", "Not checked: the database cannot be used.")
    ]
    await system.close()


async def test_a_check_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging(_: System) -> AsyncIterator[Finding]:
        await asyncio.Event().wait()
        yield Finding("never", "ok", "")

    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.01)
    (found,) = await checks.run_check(System(), "slow", hanging)
    assert (found.state, found.text) == ("error", "No result within 0 s.")
