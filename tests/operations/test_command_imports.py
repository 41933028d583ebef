"""Commands start quickly, because they import only what they need: counted, not timed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS

SERVER = {"alembic", "anyio", "asyncpg", "fastapi", "httpx", "mako", "starlette", "uvicorn"}
DATABASE = {"aiosqlite", "argon2", "cryptography", "email_validator", "jose", "sqlalchemy"}
_IMPORTED = re.compile(r"^import time: .* \| +([\w.]+)$", re.MULTILINE)


def imported_by(*command: str, database_url: str = "sqlite:///missing.db") -> set[str]:
    """The names of all modules that `hourpass …` imports."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hourpass", *command],
        cwd=ROOT,
        env=environment(DATABASE_URL=database_url),
        capture_output=True,
        text=True,
        timeout=SERVE_TIMEOUT_SECONDS,
        check=True,
    )
    return set(_IMPORTED.findall(ran.stderr))


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["settings"],
        ["keys", "revoke", "--help"],
        ["init", "--help"],
        ["secrets", "rotate", "--help"],
    ],
)
def test_what_needs_no_database_imports_none(command: list[str]) -> None:
    modules = imported_by(*command)
    assert {"click", "app.cli.lazy_commands"} <= modules
    assert modules & (SERVER | DATABASE) == set()
    assert len(modules) < 420


@pytest.mark.parametrize(
    ("command", "most", "spared"),
    [
        pytest.param(["keys", "list"], 800, SERVER, id="a command runs without the server"),
        pytest.param(["migrate"], 600, SERVER | {"jose"}, id="nothing to migrate, so no Alembic"),
    ],
)
def test_what_uses_the_database_does_without_the_server(
    sqlite_template: Path, tmp_path: Path, command: list[str], most: int, spared: set[str]
) -> None:
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    modules = imported_by(*command, database_url=url)
    assert "sqlalchemy" in modules
    assert modules & spared == set()
    assert len(modules) < most
