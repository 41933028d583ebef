"""The `hourpass` command, without the service or while it runs on the same database.

No output shows a password. An error that an operator can correct is one line, with exit status 1.
"""

import json
import os
import pty
import shutil
from io import BytesIO, TextIOWrapper
from pathlib import Path

import click
import pytest
from httpx import AsyncClient
from sqlalchemy import select

from app.audit.models import Entry
from app.cli.lazy_commands import LazyCommand
from app.cli.main import main
from app.database import migrations
from app.database.engine import Database
from app.http import access_log
from app.settings import ROOT, Settings
from tests.support.apps import started_client
from tests.support.authenticator import enroll, token_with
from tests.support.commands import Command, assert_refused, hourpass, run
from tests.support.forked_process import ForkedProcess
from tests.support.markers import on_sqlite
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.settings import CHEAP_HASHING, Clock, utc_now
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    bearer,
    becomes_invalid,
    kid_of,
    log_in,
    register,
    token_is_valid,
)

__all__ = ["hourpass"]  # a fixture

NEW_PASSWORD = "achieved the grail"


@on_sqlite
async def test_create_admin_takes_the_password_from_standard_input(
    hourpass: Command, client: AsyncClient
) -> None:
    result = await hourpass(
        *("create-admin", "galahad", "--email", GALAHAD["email"]), stdin=f"{GALAHAD['password']}\n"
    )
    assert result.exit_code == 0, result.output
    profile = await client.get("/me", headers=bearer(await log_in(client, GALAHAD)))
    assert profile.json().items() >= {"username": "galahad", "is_admin": True}.items()
    assert result.output == f"Created administrator galahad with id {profile.json()['id']}.\n"


@on_sqlite
async def test_create_admin_refuses_a_taken_name_and_changes_nothing(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, GALAHAD)
    token = await log_in(client, GALAHAD)
    assert_refused(
        await hourpass("create-admin", "GALAHAD", stdin=f"{NEW_PASSWORD}\n"), "User already exists"
    )
    profile = (await client.get("/me", headers=bearer(token))).json()
    assert (profile["username"], profile["is_admin"]) == ("galahad", False)


@on_sqlite
async def test_set_password_revokes_the_tokens_of_the_user(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, GALAHAD)
    await register(client, LANCELOT)
    old = await log_in(client, GALAHAD)
    anothers = await log_in(client, LANCELOT)
    result = await hourpass("set-password", "galahad", stdin=f"{NEW_PASSWORD}\n")
    assert (result.exit_code, result.stdout) == (0, "Changed the password of galahad.\n")
    assert await becomes_invalid(client, old)
    assert await token_is_valid(client, anothers)
    assert (await client.post("/token", json=GALAHAD)).status_code == 401
    new = await log_in(client, {**GALAHAD, "password": NEW_PASSWORD})
    assert await token_is_valid(client, new)


@on_sqlite
async def test_grant_and_revoke_change_single_scopes(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    steps = [
        ("grant lancelot predict:fraud-* admin", "no scopes", "admin predict:fraud-*"),
        ("grant lancelot train predict:fraud-*", "admin predict:fraud-*", "{before} train"),
        ("grant lancelot train", "{before}", "{before}"),
        ("revoke lancelot predict:fraud-v3", "{before}", "{before}"),
        ("revoke lancelot predict:fraud-*", "{before}", "admin train"),
        ("revoke --yes lancelot admin", "admin train", "train"),
        ("set-scopes lancelot predict train", "train", "predict train"),
        ("set-scopes --yes lancelot", "predict train", "no scopes"),
        ("set-scopes lancelot", "no scopes", "no scopes"),
    ]
    now_has = "no scopes"
    for command, before, after in steps:
        token = await log_in(client, LANCELOT)
        had, has = before.format(before=now_has), after.format(before=now_has)
        result = await hourpass(*command.split())
        said = f"lancelot had: {had}.\nlancelot now has: {has}.\n"
        assert (result.exit_code, result.stdout) == (0, said), command
        if had == has:
            assert await token_is_valid(client, token), command
        else:
            assert await becomes_invalid(client, token), command
        now_has = has
    granted = await hourpass("users", "grant", "lancelot", "train", "--json")
    assert json.loads(granted.stdout) == {"username": "lancelot", "before": [], "after": ["train"]}


@on_sqlite
async def test_losing_admin_or_every_scope_needs_a_confirmation(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    await hourpass("grant", "lancelot", "admin", "predict")
    token = await log_in(client, LANCELOT)
    for command, answer, lost in (
        ("revoke lancelot admin", "n\n", "admin"),
        ("set-scopes lancelot predict", "n\n", "admin"),
        ("revoke lancelot admin predict", "", "admin and every scope"),
        ("set-scopes lancelot", "", "admin and every scope"),
    ):
        result = await hourpass(*command.split(), stdin=answer)
        assert result.exit_code == 1
        assert f"lancelot loses {lost}. Continue? [y/N]" in result.output
        assert "now has" not in result.output
    assert await token_is_valid(client, token)
    result = await hourpass("revoke", "lancelot", "admin", stdin="y\n")
    assert "lancelot now has: predict." in result.output
    assert await becomes_invalid(client, token)


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ("*", "A * stands at the end of a name"),
        ("pre*dict:x", "A * stands at the end of a name"),
        ("predict:**", "A * stands at the end of a name"),
        ("predict:", "A name follows the colon"),
        ("predict:a//b", "has no //"),
        ("p" * 300, "at most 128 characters"),
        ("offline_access", "It cannot be granted"),
    ],
)
@pytest.mark.parametrize("command", ["grant", "set-scopes"])
def test_a_scope_that_cannot_be_granted_is_refused_with_the_reason(
    command: str, scope: str, reason: str
) -> None:
    result = run(command, "lancelot", "predict", scope)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.replace("│", " ").split())


@on_sqlite
async def test_reset_second_factor_removes_it_and_revokes_the_tokens_of_the_user(
    hourpass: Command, client: AsyncClient, clock: Clock
) -> None:
    async def has_second_factor() -> bool:
        shown = await hourpass("users", "show", "galahad", "--json")
        return bool(json.loads(shown.stdout)["has_second_factor"])

    await register(client, GALAHAD)
    authenticator = await enroll(client, GALAHAD, clock)
    token = await token_with(client, GALAHAD, authenticator.code())
    assert await has_second_factor()
    result = await hourpass("reset-second-factor", "galahad")
    assert (result.exit_code, result.stdout) == (0, "Removed the second factor of galahad.\n")
    assert await becomes_invalid(client, token)
    await log_in(client, GALAHAD)
    result = await hourpass("reset-second-factor", "galahad")
    assert_refused(result, "There is no second factor")
    assert not await has_second_factor()


async def test_commands_are_in_the_audit_log(
    hourpass: Command, settings: Settings, database: Database, clock: Clock
) -> None:
    async def entries() -> list[Entry]:
        async with database.session() as session:
            return list(await session.scalars(select(Entry).order_by(Entry.id)))

    clock.now = utc_now()  # as the command has it, so that the key may be followed by another
    async with started_client(settings, clock) as client:
        await register(client, LANCELOT)
        kid = kid_of(await log_in(client, LANCELOT))
        await enroll(client, LANCELOT, clock)
        for command, action, subject in (
            ("create-admin mordred", "user.register", 3),
            ("set-password lancelot", "user.change_password", 2),
            ("grant lancelot predict", "user.grant", 2),
            ("set-scopes lancelot train", "user.grant", 2),
            ("unlock lancelot", "user.unlock", 2),
            ("reset-second-factor lancelot", "second_factor.reset", 2),
            ("signing-keys rotate", "key.rotate", None),
            (f"signing-keys revoke {kid} --yes", "key.revoke", None),
        ):
            before = await entries()
            result = await hourpass(*command.split(), stdin=f"{NEW_PASSWORD}\n")
            assert result.exit_code == 0, result.output
            *_, entry = (await entries())[len(before) :]
            found = (entry.action, entry.actor_id, entry.subject_id, entry.succeeded)
            assert found == (action, None, subject, True), command
            assert entry.user_agent == "hourpass"


@on_sqlite
async def test_a_refused_password_is_not_repeated(hourpass: Command) -> None:
    for stdin, policy, line in (
        ("", "basic", "PASSWORD: Field required"),
        ("\0\n", "basic", "PASSWORD: Must not contain a NUL character"),
        ("x" * 7, "strict", "password: Must have at least 8 characters"),
        ("password1", "strict", "password: Must not be one of the commonly used passwords"),
    ):
        for command in ("create-admin galahad", "set-password arthur"):
            result = await hourpass(*command.split(), stdin=stdin, PASSWORD_POLICY=policy)
            assert_refused(result, line)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_password_that_is_not_text_is_refused_without_repeating_it(
    errors: str,
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python reads standard input with the one or the other error handler: it depends on the
    locale."""
    stdin = TextIOWrapper(BytesIO(b"caf\xe9 au lait\n"), "utf-8", errors)
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")
    with pytest.raises(SystemExit) as ended:
        main(["create-admin", "galahad"])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 1)
    assert "au lait" not in shown.err


def test_at_a_terminal_the_command_asks_for_the_password_twice_and_never_shows_it(
    sqlite_template: Path, tmp_path: Path
) -> None:
    database = shutil.copy(sqlite_template, tmp_path)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = ForkedProcess(
            *("create-admin", "galahad"),
            directory=str(ROOT),
            variables=environment(DATABASE_URL=f"sqlite:///{database}", **CHEAP_HASHING),
            output=Path(os.ttyname(theirs)),
        )
        shown = b""
        for prompt in (b"Password: ", b"Repeat for confirmation: "):
            while not shown.endswith(prompt):
                shown += terminal.read(1024)
            terminal.write(GALAHAD["password"].encode() + b"\n")
        os.close(theirs)  # open until the process has opened it
        try:
            while part := terminal.read(1024):
                shown += part
        except OSError:
            pass  # Linux's way to say that the other end is closed
        assert process.wait(SERVE_TIMEOUT_SECONDS) == 0
    assert b"Created administrator galahad with id 1." in shown
    assert GALAHAD["password"].encode() not in shown


def test_an_empty_database_has_to_be_migrated_which_may_be_repeated(
    empty_database_url: str,
) -> None:
    assert_refused(
        run("create-admin", "galahad", stdin="x\n", DATABASE_URL=empty_database_url),
        "The database has no tables yet. Run `hourpass migrate`.",
    )
    for _ in range(2):
        result = run("migrate", DATABASE_URL=empty_database_url)
        assert (result.exit_code, result.output) == (0, f"The database is at {migrations.HEAD}.\n")


def test_settings_prints_every_setting_once_and_no_value_from_the_environment() -> None:
    result = run("settings", SECRET_KEY="the lady of the lake keeps it dry")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert all(reason.startswith("# ") for reason in lines[::2])
    assert [line.partition("=")[0] for line in lines[1::2]] == [
        name.upper() for name in Settings.model_fields
    ]
    assert "lady of the lake" not in result.output


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands(option: str) -> None:
    result = run(option)
    assert result.exit_code == 0
    _, _, listed = result.output.partition("Commands:\n")
    shown = {name for name, command in main.commands.items() if not command.hidden}
    names = [line.split()[0] for line in listed.splitlines() if line[2:3] != " "]
    assert names == sorted(shown)
    assert shown == {
        "after-restore",
        "api-keys",
        "apply",
        "audit",
        "backup",
        "copy",
        "doctor",
        "export",
        "groups",
        "import",
        "init",
        "invitations",
        "mail",
        "migrate",
        "restore",
        "serve",
        "secrets",
        "service-accounts",
        "sessions",
        "settings",
        "signing-keys",
        "users",
        "webhooks",
    }


@pytest.mark.parametrize(
    ("former", "command"),
    [
        ("grant", "users grant"),
        ("revoke", "users revoke"),
        ("set-scopes", "users set-scopes"),
        ("set-password", "users set-password"),
        ("reset-second-factor", "users reset-second-factor"),
        ("unlock", "users unlock"),
        ("keys rotate", "signing-keys rotate"),
        ("test-mail", "mail test"),
    ],
)
def test_former_names_are_the_same_commands(former: str, command: str) -> None:
    assert loaded(former) is loaded(command)


def loaded(command: str) -> click.Command:
    found: click.Command = main
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
        if isinstance(found, LazyCommand):
            found = found.load()
    return found


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        pytest.param(
            {"PORT": "eighty"},
            "PORT must be a whole number from 0 to 65535",
            id="no number",
        ),
        pytest.param(
            {"DATABASE_URL": "mysql://arthur:sesame@camelot/hourpass"},
            "must begin with sqlite:/// or postgresql://",
            id="an unknown database",
        ),
        pytest.param(
            {"SECRET_KEY": "too short a secret"},
            "SECRET_KEY must have between 32 and 1024 characters",
            id="a short secret",
        ),
        pytest.param(
            {"SIGNING_ALGORITHM": "HS256", "HS256_SECRET": ""},
            "SIGNING_ALGORITHM=HS256 needs HS256_SECRET",
            id="settings that belong together",
        ),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_an_invalid_setting_is_named_without_its_value(
    command: str, variables: dict[str, str], line: str
) -> None:
    result = run(command, **variables)
    assert_refused(result, line)
    assert not [value for value in variables.values() if value and value in result.output.split()]


def test_each_invalid_setting_has_a_line() -> None:
    result = run("migrate", PORT="eighty", WORKERS="0")
    assert_refused(
        result,
        "PORT must be a whole number from 0 to 65535",
        "WORKERS must be a whole number from 1 to 256",
    )


def test_the_workers_know_how_many_they_are(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the memory of a container. Of the options of the command, they see none."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("app.server.run.serve", lambda *options: calls.append(options))
    monkeypatch.setattr(access_log, "configure", lambda _: None)
    monkeypatch.setenv("WORKERS", "1")
    monkeypatch.setenv("PORT", "1")
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    result = run("serve", "--port", "8123", "--workers", "3", DATABASE_URL=url)
    assert result.exit_code == 0, result.output
    assert calls == [("127.0.0.1", 8123, 3, None)]  # without metrics
    assert (Settings().port, Settings().workers) == (8123, 3)
