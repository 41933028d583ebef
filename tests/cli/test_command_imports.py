"""Commands start quickly, because they import only what they need: counted, not timed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from app.cli.lazy_commands import LazyCommand
from app.cli.main import main
from app.settings import ROOT
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS

SERVER = {"alembic", "anyio", "asyncpg", "fastapi", "httpx", "mako", "starlette", "uvicorn"}
DATABASE = {"aiosqlite", "argon2", "cryptography", "email_validator", "jose", "sqlalchemy"}
# The console script: its name is that of the variable _HOURPASS_COMPLETE.
_PROGRAM = Path(sys.executable).with_name("hourpass")
# As bash calls the function of a word's completion.
_COMPLETE = """
eval "$(_HOURPASS_COMPLETE=bash_source hourpass)"
complete -p hourpass >&2
COMP_WORDS=($1 "$2")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_hourpass_completion hourpass "$2"
printf '%s\\n' "${COMPREPLY[@]}"
"""
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


# Every group, since completion imports a group to list its commands.
GROUPS = sorted(
    name
    for name, command in main.commands.items()
    if isinstance(command, LazyCommand) and isinstance(command.load(), click.Group)
)


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "settings",
        "init --help",
        "audit --help",
        "doctor --help",
        "users create --help",
        *(f"{name} --help" for name in GROUPS),
    ],
)
def test_what_needs_no_database_imports_none(command: str) -> None:
    modules = imported_by(*command.split())
    assert {"click", "app.cli.lazy_commands"} <= modules
    assert modules & (SERVER | DATABASE) == set()
    assert len(modules) < 420


@pytest.mark.parametrize(
    ("words", "current", "expected"),
    [
        ("hourpass", "us", {"users"}),
        (
            "hourpass",
            "s",
            {"secrets", "serve", "service-accounts", "sessions", "settings", "signing-keys"},
        ),
        (
            "hourpass users",
            "re",
            {"reset-password", "reset-second-factor", "revoke", "revoke-tokens"},
        ),
        ("hourpass api-keys create lancelot", "--net", {"--network"}),
        ("hourpass users list --kind", "", {"person", "service"}),
    ],
)
def test_bash_completes_words_without_a_database(
    tmp_path: Path, words: str, current: str, expected: set[str]
) -> None:
    """In a real bash, by the script that the command prints."""
    program = tmp_path / "hourpass"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -X importtime {_PROGRAM} "$@" 2>>{tmp_path}/imports\n'
    )
    program.chmod(0o755)
    completed = subprocess.run(
        ["bash", "-c", _COMPLETE, "bash", words, current],
        cwd=ROOT,
        env={**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SERVE_TIMEOUT_SECONDS,
        check=True,
    )
    assert set(completed.stdout.split()) == expected, completed.stderr
    modules = set(_IMPORTED.findall((tmp_path / "imports").read_text()))
    assert "click" in modules
    assert modules & (SERVER | DATABASE) == set()


@pytest.mark.parametrize(
    ("command", "most", "spared"),
    [
        pytest.param(["signing-keys", "list"], 800, SERVER, id="a command runs without the server"),
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
