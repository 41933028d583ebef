"""Starting, refusing to start, stopping, and what only a real socket can show."""

import shutil
import socket
import sqlite3
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from app.database import migrations
from app.main import create_app
from tests.support.processes import free_port
from tests.support.settings import make_settings
from tests.support.started_service import HOURPASS, UVICORN, ended, started, token_of
from tests.support.users import ARTHUR

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "9f2c61d7a04be8355c1d90b7e6f8a24310c5d2e7b96f4a18",
    "ISSUER": "https://hourpass.example",
}


def test_services_started_at_once_on_an_empty_database_share_one_key(
    empty_database_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                started(
                    tmp_path,
                    *(*HOURPASS, "serve"),
                    DATABASE_URL=empty_database_url,
                    ISSUER="http://localhost:8000",
                )
            )
            for _ in range(3)
        ]
        for service in services:
            service.wait_until_ready()
        assert httpx.post(f"{services[0].base_url}/register-user", json=ARTHUR).status_code == 201
        for issuing in services:
            token = token_of(issuing.base_url)
            for asked in services:
                assert httpx.get(f"{asked.base_url}/token_status/{token}").status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_the_service_cleanly(workers: str, tmp_path: Path) -> None:
    with started(
        tmp_path,
        *(*HOURPASS, "serve", "--workers", workers),
        DATABASE_URL=f"sqlite:///{tmp_path}/hourpass.db",
    ) as service:
        service.wait_for_workers(int(workers))
        assert service.interrupt() == 0
        assert "Traceback" not in service.written()


def test_connections_are_dealt_out_to_all_workers(tmp_path: Path) -> None:
    with (
        started(
            tmp_path,
            *(*HOURPASS, "serve", "--workers", "2"),
            DATABASE_URL=f"sqlite:///{tmp_path}/hourpass.db",
        ) as service,
        ExitStack() as connections,
    ):
        service.wait_for_workers(2)
        asked = [
            connections.enter_context(httpx.Client(verify=False)).get(f"{service.base_url}/healthz")
            for _ in range(40)
        ]
        # What an id begins with is its worker's.
        served = Counter(answer.headers["X-Request-Id"].partition("-")[0] for answer in asked)
        assert len(served) == 2
        assert min(served.values()) >= 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_is_refused_without_a_traceback(workers: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        options = ("--workers", workers, "--port", str(other.getsockname()[1]))
        url = f"sqlite:///{tmp_path}/hourpass.db"
        run = ended(*HOURPASS, "serve", *options, DATABASE_URL=url)
    assert run.returncode != 0
    assert "address already in use" in run.stdout.lower()
    assert "Traceback" not in run.stdout


def test_plain_uvicorn_serves_in_development_and_its_log_shows_no_token(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    missing = str(tmp_path / "missing.env")
    with started(tmp_path, *UVICORN, DATABASE_URL=url, ENV_FILE=missing) as service:
        service.wait_until_ready()
        httpx.post(f"{service.base_url}/register-user", json=ARTHUR)
        token = token_of(service.base_url)
        assert httpx.get(f"{service.base_url}/token_status/{token}").status_code == 200
        assert httpx.get(f"{service.base_url}/token_status/{token}x?{token}").status_code == 401
        service.interrupt()
    assert service.logged("Starting")["env_file"] == f"{missing} (none)"
    written = service.written()
    assert "/token_status/{token}" in written
    for part in (*token.split("."), ARTHUR["password"], ARTHUR["email"]):
        assert part not in written


def test_with_a_home_the_files_are_the_same_from_any_directory_and_the_log_names_them(
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    database = home / "chosen.db"
    env_file = home / ".env"
    env_file.write_text("DATABASE_URL=sqlite:///chosen.db\n")
    variables = {"HOURPASS_HOME": str(home), "ENV_FILE": ""}
    for command in ((*HOURPASS, "serve"), UVICORN):
        with started(tmp_path, *command, cwd=elsewhere, **variables) as service:
            service.wait_until_ready()
            httpx.post(f"{service.base_url}/register-user", json=ARTHUR)
            line = service.logged("Starting")
        assert Path(str(line["database"]).removeprefix("sqlite+aiosqlite:///")).samefile(database)
        assert line["env_file"] == str(env_file)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)
    assert list(elsewhere.iterdir()) == []


def test_without_any_setting_the_files_are_those_of_the_current_directory(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / ".env").write_text("AUDIENCE=court\n")
    with started(tmp_path, *HOURPASS, "serve", cwd=project, ENV_FILE="") as service:
        service.wait_until_ready()
        line = service.logged("Starting")
    assert (project / "hourpass.db").exists()
    assert line["env_file"] == str(project / ".env")


def test_a_schema_ahead_is_refused_however_the_service_is_started(
    sqlite_template: Path, tmp_path: Path
) -> None:
    database = shutil.copy(sqlite_template, tmp_path)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE hourpass_version SET version_num = 'from tomorrow'")
        connection.commit()
    for command in ((*HOURPASS, "serve"), UVICORN):
        run = ended(*command, DATABASE_URL=f"sqlite:///{database}")
        assert run.returncode != 0
        assert "ahead of this version (at from tomorrow" in run.stdout
        assert "Traceback" not in run.stdout


def test_a_schema_behind_is_refused_and_the_way_out_named(sqlite_template: Path) -> None:
    newer = "import uvicorn; from app.database import migrations; migrations.HEAD = 'newer'; "
    run = ended(
        *(sys.executable, "-c", f"{newer} uvicorn.run('app.main:app', port=0)"),
        DATABASE_URL=f"sqlite:///{sqlite_template}",
    )
    assert run.returncode != 0
    assert (
        f"behind this version (at {migrations.HEAD}, needs newer). Run `hourpass mig" in run.stdout
    )
    assert "Traceback" not in run.stdout


def test_in_production_uvicorn_alone_does_not_create_the_tables(tmp_path: Path) -> None:
    run = ended(*UVICORN, DATABASE_URL=f"sqlite:///{tmp_path}/hourpass.db", **PRODUCTION)
    assert run.returncode != 0
    assert "no tables yet. Run `hourpass migrate`" in run.stdout
    assert "Traceback" not in run.stdout


def test_an_unreachable_database_gets_one_clear_line() -> None:
    url = f"postgresql://hourpass:sesame@127.0.0.1:{free_port()}/hourpass"
    run = ended(*HOURPASS, "serve", DATABASE_URL=url)
    assert run.returncode == 1
    assert run.stdout == "Error: The database cannot be used: connection refused.\n"


async def test_workers_that_cannot_read_the_keys_end_the_service_with_a_failure(
    sqlite_template: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    app = create_app(make_settings(url, secret_key=PRODUCTION["SECRET_KEY"]))
    async with app.router.lifespan_context(app):
        pass  # makes a key, and encrypts it
    run = ended(*HOURPASS, "serve", "--port", "0", "--workers", "2", DATABASE_URL=url)
    assert "The signing keys are encrypted. Set SECRET_KEY." in run.stdout
    assert "Traceback" not in run.stdout
    assert run.returncode != 0


@pytest.mark.parametrize(
    ("command", "secret_key"),
    [
        pytest.param((*HOURPASS, "serve"), "", id="hourpass serve, none"),
        pytest.param(UVICORN, "too short a secret", id="uvicorn, too short"),
    ],
)
def test_production_names_the_missing_secret_key_and_shows_no_secret(
    command: tuple[str, ...], secret_key: str
) -> None:
    secrets = {
        "SECRET_KEY": secret_key,
        "HS256_SECRET": "a secret that is long enough for HS256",
        "FIRST_ADMIN_USERNAME": "arthur",
        "FIRST_ADMIN_PASSWORD": "once and future king",
        "DATABASE_URL": "postgresql://hourpass:open-sesame@127.0.0.1/hourpass",
    }
    run = ended(*command, **{**PRODUCTION, **secrets})
    assert run.returncode == 1
    assert "secret_key" in run.stdout.lower()
    for secret in (secret_key, secrets["HS256_SECRET"], "once and future king", "open-sesame"):
        assert not secret or secret not in run.stdout
    if command[:3] == HOURPASS:
        assert len(run.stdout.splitlines()) == 1
