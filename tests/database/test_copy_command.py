"""`hourpass copy` prints what it copied, and never a password."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main
from app.operations.database_copy.tables import copied_tables
from tests.support.databases import target_url
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import CHEAP_HASHING

__all__ = ["target_url"]


async def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
    """`hourpass copy`, which has an event loop of its own."""
    runner = CliRunner()
    env = {**CHEAP_HASHING, **variables}
    return await asyncio.to_thread(runner.invoke, main, ["copy", *arguments], input=stdin, env=env)


@on_sqlite
async def test_the_command_prints_each_table_and_no_password(
    database_url: str, target_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text(f"{target_url}\n")
    result = await run("--to-file", str(file), DATABASE_URL=database_url)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["TABLE", "ROWS", "CHECKSUM"]
    assert len(lines) == 1 + len(copied_tables()) + 2
    assert lines[-1] == "Set DATABASE_URL to the target, then start the service."
    result = await run(DATABASE_URL=database_url, TARGET_DATABASE_URL=target_url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "The target is not empty" in result.stderr


@on_postgresql
async def test_the_command_prints_json(database_url: str, target_url: str) -> None:
    result = await run(
        "--json", "--to-file", "-", stdin=f"{target_url}\n", DATABASE_URL=database_url
    )
    assert result.exit_code == 0, result.output
    tables = [json.loads(line) for line in result.stdout.splitlines()]
    assert [table["name"] for table in tables] == [table.name for table in copied_tables()]
    (users,) = [table for table in tables if table["name"] == "users"]
    assert users["rows"] == 1
    assert len(users["checksum"]) == 64


@on_sqlite
async def test_a_wrong_target_is_a_usage_error(
    database_url: str, subtests: pytest.Subtests
) -> None:
    for arguments, words in (
        ([], "Name the target with --to, --to-file or TARGET_DATABASE_URL"),
        (
            ["--to", "mysql://sesame@camelot/x"],
            "The URL of the target must begin with sqlite:/// or postgresql://",
        ),
        (["--to", "sqlite:///a.db", "--to-file", "-"], "not both"),
    ):
        with subtests.test(words):
            result = await run(*arguments, DATABASE_URL=database_url)
            assert result.exit_code == 2
            assert words in result.stderr
            assert "sesame" not in result.output


@on_sqlite
async def test_a_password_among_the_arguments_gets_a_warning_and_is_not_repeated(
    database_url: str,
) -> None:
    url = "postgresql://arthur:sesame@127.0.0.1:9/hourpass"
    result = await run("--to", url, DATABASE_URL=database_url)
    assert result.exit_code == 1
    warning, error = result.stderr.splitlines()
    assert "Use --to-file" in warning
    assert error.startswith("Error: The target cannot be used: ")
    assert "sesame" not in result.output
    result = await run(DATABASE_URL=database_url, TARGET_DATABASE_URL=url)
    assert "Warning" not in result.output
