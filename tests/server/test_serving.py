"""How the service starts, or refuses to, and how Ctrl-C stops it."""

import json
import shutil
import socket
import sqlite3
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.database import migrations
from app.errors import StartupError
from app.main import create_app
from tests.support.processes import free_port
from tests.support.settings import make_settings
from tests.support.started_service import (
    APP,
    UVICORN,
    Service,
    forked,
    run_command,
    started,
    token_of,
)
from tests.support.users import ARTHUR

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "9f2c61d7a04be8355c1d90b7e6f8a24310c5d2e7b96f4a18",
    "ISSUER": "https://hourpass.example",
}


def test_services_started_at_once_on_an_empty_database_share_one_key(
    empty_database_url: str, tmp_path: Path
) -> None:
    def another() -> AbstractContextManager[Service]:
        issuer = "http://localhost:8000"
        return forked(tmp_path, "serve", DATABASE_URL=empty_database_url, ISSUER=issuer)

    with ExitStack() as stack:
        services = [stack.enter_context(another()) for _ in range(3)]
        for service in services:
            service.wait_until_ready()
        assert httpx.post(f"{services[0].base_url}/register-user", json=ARTHUR).status_code == 201
        for issuing in services:
            token = token_of(issuing.base_url)
            for asked in services:
                assert httpx.get(f"{asked.base_url}/token_status/{token}").status_code == 200


def test_an_address_in_use_is_one_error_line_in_the_format_of_the_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for workers in ("1", "2"):
            run = run_command("serve", "--workers", workers, "--port", port, DATABASE_URL=url)
            assert run.returncode == 3
            [line] = [json.loads(line) for line in run.stdout.splitlines()]
            assert line["level"] == "error"
            assert "address already in use" in line["message"].lower()


def test_with_a_home_the_files_are_the_same_from_any_directory(tmp_path: Path) -> None:
    """With `hourpass serve` and with plain uvicorn, whose log does not show tokens either."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    database = home / "chosen.db"
    env_file = home / ".env"
    env_file.write_text("DATABASE_URL=sqlite:///chosen.db\n")
    variables: dict[str, Any] = {"HOURPASS_HOME": str(home), "ENV_FILE": ""}
    for start, command in ((forked, ("serve",)), (started, UVICORN)):
        with start(tmp_path, *command, cwd=elsewhere, **variables) as service:
            service.wait_until_ready()
            httpx.post(f"{service.base_url}/register-user", json=ARTHUR)
            line = service.logged("Starting")
            token = token_of(service.base_url)
            assert httpx.get(f"{service.base_url}/token_status/{token}").status_code == 200
            assert httpx.get(f"{service.base_url}/token_status/{token}x?{token}").status_code == 401
            written = service.everything_written()
        assert Path(str(line["database"]).removeprefix("sqlite+aiosqlite:///")).samefile(database)
        assert line["env_file"] == str(env_file)
        assert "/token_status/{token}" in written
        for part in (*token.split("."), ARTHUR["password"], ARTHUR["email"]):
            assert part not in written
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)
    assert list(elsewhere.iterdir()) == []


def test_without_settings_the_files_are_in_the_current_directory_and_ctrl_c_stops_the_service(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / ".env").write_text("AUDIENCE=court\n")
    with forked(tmp_path, "serve", cwd=project, ENV_FILE="") as service:
        service.wait_until_ready()
        assert service.logged("Starting")["env_file"] == str(project / ".env")
        assert service.interrupt() == 0
        assert "Traceback" not in service.written()
    assert (project / "hourpass.db").exists()


def test_a_schema_ahead_is_refused_however_the_service_is_started(
    sqlite_template: Path, tmp_path: Path
) -> None:
    database = shutil.copy(sqlite_template, tmp_path)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE hourpass_version SET version_num = 'from tomorrow'")
        connection.commit()
    url = f"sqlite:///{database}"
    missing = str(tmp_path / "missing.env")
    by_command = run_command("serve", DATABASE_URL=url)
    by_uvicorn = run_command(APP, module="uvicorn", DATABASE_URL=url, ENV_FILE=missing)
    for run in (by_command, by_uvicorn):
        assert run.returncode != 0
        assert "ahead of this version (at from tomorrow" in run.stdout
        assert "Traceback" not in run.stdout
    assert f"{missing} (none)" in by_uvicorn.stdout


async def start(**settings: object) -> None:
    app = create_app(make_settings(**settings))  # type: ignore[arg-type] # the URL is one of them
    async with app.router.lifespan_context(app):
        pass


async def test_a_schema_behind_is_refused_and_the_message_says_what_to_do(
    sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = migrations.HEAD
    monkeypatch.setattr(migrations, "HEAD", "newer")
    expected = rf"behind this version \(at {at}, needs newer\)\. Run `hourpass migrate`"
    with pytest.raises(StartupError, match=expected):
        await start(database_url=f"sqlite:///{sqlite_template}")


async def test_in_production_a_start_does_not_create_the_tables(tmp_path: Path) -> None:
    settings = {name.lower(): value for name, value in PRODUCTION.items()}
    safe_hashing = {"argon2_memory_kib": 19_456, "argon2_passes": 2}
    with pytest.raises(StartupError, match=r"no tables yet\. Run `hourpass migrate`"):
        await start(database_url=f"sqlite:///{tmp_path}/hourpass.db", **settings, **safe_hashing)


def test_an_unreachable_database_gets_one_clear_line() -> None:
    url = f"postgresql://hourpass:sesame@127.0.0.1:{free_port()}/hourpass"
    run = run_command("serve", DATABASE_URL=url)
    assert run.returncode == 1
    assert run.stdout == "Error: The database cannot be used: connection refused.\n"


async def test_workers_that_cannot_read_the_keys_end_the_service_with_a_failure(
    sqlite_template: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    await start(database_url=url, secret_key=PRODUCTION["SECRET_KEY"])  # makes a key, encrypted
    run = run_command("serve", "--port", "0", "--workers", "2", DATABASE_URL=url)
    assert "The signing keys are encrypted. Set SECRET_KEY." in run.stdout
    assert "Traceback" not in run.stdout
    assert run.returncode != 0


def test_production_names_the_missing_secret_key_and_shows_no_secret() -> None:
    secrets = {
        "HS256_SECRET": "a secret that is long enough for HS256",
        "FIRST_ADMIN_PASSWORD": "once and future king",
        "DATABASE_URL": "postgresql://hourpass:open-sesame@127.0.0.1/hourpass",
    }
    variables = {**PRODUCTION, **secrets, "FIRST_ADMIN_USERNAME": "arthur"}
    too_short = "too short a secret"
    by_command = run_command("serve", **{**variables, "SECRET_KEY": ""})
    weak = {**variables, "SECRET_KEY": too_short}
    by_uvicorn = run_command(APP, module="uvicorn", **weak)
    for run in (by_command, by_uvicorn):
        assert run.returncode == 1
        assert "secret_key" in run.stdout.lower()
        for secret in (too_short, secrets["HS256_SECRET"], "once and future king", "open-sesame"):
            assert secret not in run.stdout
    assert len(by_command.stdout.splitlines()) == 1
