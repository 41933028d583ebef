"""Commands start quickly, because they import only what they need: counted, not timed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from app.cli.lazy_commands import LazyCommand
from app.cli.main import main
from app.settings import ROOT
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS

SERVER = {"alembic", "anyio", "asyncpg", "fastapi", "httpx", "mako", "starlette", "uvicorn"}
DATABASE = {"aiosqlite", "argon2", "cryptography", "email_validator", "jose", "sqlalchemy"}
OPTIONAL = {"opentelemetry.exporter", "opentelemetry.sdk", "prometheus_client"}

# Every group, since completion imports a group to list its commands.
GROUPS = sorted(
    name
    for name, command in main.commands.items()
    if isinstance(command, LazyCommand) and isinstance(command.load(), click.Group)
)
WITHOUT_DATABASE = (
    "--help",
    "settings",
    *("init --help", "audit --help", "doctor --help", "users create --help"),
    *(f"{name} --help" for name in GROUPS),
)
# Runs commands one after the other, and prints after each of them which modules are imported.
_RUN = """
import contextlib, functools, io, json, sys
import hourpass.cli
hourpass.cli.entry_points = functools.cache(hourpass.cli.entry_points)  # reads all packages
for command in sys.argv[1:]:
    if command == "app.main":
        import app.main
    else:
        sys.argv = ["hourpass", *command.split()]
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            hourpass.cli.main()
    print(json.dumps([command, list(sys.modules)]))
"""
# As bash calls the function of a word's completion.
_COMPLETE = """
eval "$1"
complete -p hourpass >&2
COMP_WORDS=(hourpass users list --kind "")
COMP_CWORD=4
_hourpass_completion hourpass ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
# The console script: its name is that of the variable _HOURPASS_COMPLETE.
_PROGRAM = Path(sys.executable).with_name("hourpass")
_IMPORTED = re.compile(r"^import time: .* \| +([\w.]+)$", re.MULTILINE)


def test_each_command_imports_only_what_it_needs(sqlite_template: Path, tmp_path: Path) -> None:
    """In one new interpreter, so that each command may import more than those before it."""
    stages = {
        **dict.fromkeys(WITHOUT_DATABASE, (SERVER | DATABASE | OPTIONAL, 420)),
        "migrate": (SERVER | OPTIONAL | {"jose"}, 620),  # nothing to migrate, so no Alembic
        "signing-keys list": (SERVER | OPTIONAL, 800),
        "app.main": (OPTIONAL, 2_000),
    }
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    ran = subprocess.run(
        [sys.executable, "-c", _RUN, *stages],
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=SERVE_TIMEOUT_SECONDS,
        check=True,
    )
    found = {command: set(names) for command, names in map(json.loads, ran.stdout.splitlines())}
    assert found.keys() == stages.keys()
    for command, (spared, most) in stages.items():
        assert {"click", "app.cli.lazy_commands"} <= found[command]
        assert found[command] & spared == set(), command
        assert len(found[command]) < most, command
    assert "sqlalchemy" in found["migrate"]
    assert "app.monitoring.tracing.environment" in found["app.main"]


def test_words_are_completed(subtests: pytest.Subtests) -> None:
    for words, current, expected in (
        ("", "us", {"users"}),
        ("", "se", {"secrets", "serve", "service-accounts", "sessions", "settings"}),
        ("users", "re", {"reset-password", "reset-second-factor", "revoke", "revoke-tokens"}),
        ("api-keys create lancelot", "--net", {"--network"}),
    ):
        with subtests.test(words, current=current):
            completion = BashComplete(main, {}, "hourpass", "_HOURPASS_COMPLETE")
            found = completion.get_completions(words.split(), current)
            assert {item.value for item in found} == expected


def test_bash_completes_words_without_a_database(tmp_path: Path) -> None:
    """In a real bash, by the script that click writes for the command."""
    script = BashComplete(main, {}, "hourpass", "_HOURPASS_COMPLETE").source()
    program = tmp_path / "hourpass"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -X importtime {_PROGRAM} "$@" 2>>{tmp_path}/imports\n'
    )
    program.chmod(0o755)
    completed = subprocess.run(
        ["bash", "-c", _COMPLETE, "bash", script],
        cwd=ROOT,
        env={**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SERVE_TIMEOUT_SECONDS,
        check=True,
    )
    assert set(completed.stdout.split()) == {"person", "service"}, completed.stderr
    modules = set(_IMPORTED.findall((tmp_path / "imports").read_text()))
    assert "click" in modules
    assert modules & (SERVER | DATABASE) == set()
