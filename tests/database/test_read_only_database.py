"""A database that can only be read is refused at start, and is a 503 later."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import make_url

from app.database import readiness
from app.database.engine import Database
from app.database.readiness import NotWritableError, check_writable
from app.main import create_app
from app.settings import ROOT, Settings
from tests.support import database_templates as templates
from tests.support.apps import client_of
from tests.support.database_templates import Postgres
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.processes import environment
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import ARTHUR, assert_problem, bearer, log_in


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.1)


@contextmanager
def read_only(postgres: Postgres, url: str) -> Iterator[None]:
    """Sessions that begin within stay read-only, as those with a standby do."""
    name = make_url(url).database
    end = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres.run(end)
    try:
        yield
    finally:
        postgres.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
async def test_after_a_failover_the_service_waits_for_the_new_primary(
    client: AsyncClient, app: FastAPI, postgres: Postgres, settings: Settings
) -> None:
    token = await log_in(client, ARTHUR)
    assert (await client.get("/readyz")).status_code == 200
    with read_only(postgres, settings.database_url):
        while (await client.get("/me", headers=bearer(token))).status_code == 503:
            pass
        refusal = await client.post("/token", json=ARTHUR)
        assert_problem(refusal, 503, "temporarily_unavailable")
        assert refusal.headers["retry-after"] == "1"
        while (await client.get("/readyz")).status_code == 200:
            pass
        with pytest.raises(NotWritableError, match=r"is read-only: it is a standby"):
            await check_writable(app.state.database)
    # No connection of before is used, or this would never end.
    assert await log_in(client, ARTHUR)
    while (await client.get("/readyz")).status_code == 503:
        pass


@on_postgresql
async def test_the_service_does_not_start_on_a_read_only_database(
    postgres: Postgres, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings, clock, clock)
    with read_only(postgres, settings.database_url), pytest.raises(NotWritableError):
        async with app.router.lifespan_context(app):
            pass
    [line] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert line.message.startswith("The database is read-only")


@pytest.fixture
def file_mode(database_url: str) -> Iterator[Callable[[str, int], Path]]:
    """Changes the mode of `file` or `directory` until the test ends."""
    path = Path(make_url(database_url).database or "")
    before = [(each, each.stat().st_mode) for each in (path, path.parent)]

    def change(name: str, mode: int) -> Path:
        (path if name == "file" else path.parent).chmod(mode)
        return path

    yield change
    for each, mode in before:
        each.chmod(mode)


@on_sqlite
@pytest.mark.parametrize(("name", "mode"), [("file", 0o444), ("directory", 0o555)])
def test_the_service_does_not_start_on_a_file_that_it_cannot_write(
    database_url: str, file_mode: Callable[[str, int], Path], name: str, mode: int
) -> None:
    file_mode(name, mode)
    # Even root has to obey the modes once it has no capabilities.
    prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    ended = subprocess.run(
        [*prefix, sys.executable, "-m", "hourpass", "serve", "--port", "0"],
        cwd=ROOT,
        env=environment(DATABASE_URL=database_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    output = ended.stdout + ended.stderr
    assert "cannot be" in output
    assert "read-only" in output or "cannot be opened for writing" in output
    assert "Traceback" not in output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """With a database, and one megabyte of space."""
    directory = tmp_path / "disk"
    directory.mkdir()
    size = templates.started_sqlite().stat().st_size + 1_000_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    shutil.copy(templates.started_sqlite(), directory / "hourpass.db")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            return path
    return path


async def test_on_a_full_disk_logins_are_503_until_there_is_space(
    small_disk: Path, clock: Clock
) -> None:
    settings = make_settings(f"sqlite:///{small_disk}/hourpass.db", **ARTHUR_ADMINISTERS)
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        token = await log_in(client, ARTHUR)
        filler = fill(small_disk)
        while (response := await client.post("/token", json=ARTHUR)).status_code == 200:
            pass  # as long as there is room in the files that are there
        assert_problem(response, 503, "temporarily_unavailable")
        assert (await client.get("/me", headers=bearer(token))).status_code == 200
        assert_problem(await client.get("/readyz"), 503, "not_ready")
        filler.unlink()
        assert await log_in(client, ARTHUR)
        while (await client.get("/readyz")).status_code == 503:
            pass


async def test_the_service_does_not_start_on_a_full_disk(small_disk: Path) -> None:
    database = Database(make_settings(f"sqlite:///{small_disk}/hourpass.db"))
    fill(small_disk)
    with pytest.raises(NotWritableError, match=r"disk (is|may be) full|no space left"):
        await check_writable(database)
    await database.close()
