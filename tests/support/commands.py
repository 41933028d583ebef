"""`hourpass` commands in this process."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main
from app.http import access_log
from tests.support.settings import CHEAP_HASHING

Command = Callable[..., Awaitable[Result]]


def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env={**CHEAP_HASHING, **variables})


@pytest.fixture
def hourpass(database_url: str) -> Command:
    """The command on this test's database, beside the running app: it has an event loop too."""

    async def run_beside(*arguments: str, stdin: str | bytes = "", **variables: str) -> Result:
        variables["DATABASE_URL"] = database_url
        # The app's request lines go to standard error, which CliRunner takes for the command's.
        access_log.request_log.flush()
        access_log.request_log.configure(enabled=False, as_text=False)
        return await asyncio.to_thread(run, *arguments, stdin=stdin, **variables)

    return run_beside


def assert_refused(result: Result, *reasons: str) -> None:
    """Exit status 1, no traceback, and a line for each reason."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    lines = result.output.removeprefix("Error: ").splitlines()
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line
