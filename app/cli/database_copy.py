"""`hourpass copy`."""

import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TextIO

import click
from pydantic import TypeAdapter, ValidationError

from app.cli.operations import read_line, read_settings
from app.cli.output import Table, as_json, print_json
from app.configuration.types import DatabaseUrl
from app.settings import Settings

if TYPE_CHECKING:
    from app.operations.database_copy.service import CopiedTable

_CHECKSUM_SHOWN = 16  # of 64 digits


@click.command("copy")
@click.option(
    "--to",
    "url",
    metavar="URL",
    envvar="TARGET_DATABASE_URL",
    show_envvar=True,
    help="The target, as in DATABASE_URL. Other users of this host can read the arguments of its "
    "processes: if the URL has a password, use --to-file.",
)
@click.option(
    "--to-file", type=click.File(), help="Read the URL from a file, or with - from standard input."
)
@click.option(
    "--rehearsal",
    is_flag=True,
    help="Copy although a service uses the source. Its writes fail or wait meanwhile.",
)
@as_json
def copy_database(
    url: str | None,
    to_file: TextIO | None,
    *,
    rehearsal: bool,
    as_json: bool,
) -> None:
    """Copy everything to another database, such as from SQLite to PostgreSQL.

    Stop the service first. The target must be empty; the command migrates it. Ids, tokens,
    sessions, keys and the revocation feed stay valid. The command copies and
    compares everything, or changes nothing.
    """
    source = read_settings()
    target = source.model_copy(update={"database_url": _read_url(url, to_file)})
    copied = _copy(source, target, is_rehearsal=rehearsal)
    if as_json:
        for table in copied:
            print_json(table._asdict())
        return
    shown = Table(table=22, rows=12, checksum=_CHECKSUM_SHOWN)
    for table in copied:
        shown.row([table.name, f"{table.rows:,}", table.checksum[:_CHECKSUM_SHOWN]])
    from app.database.engine import describe_url

    click.echo(f"Copied to {describe_url(target)}. Both have the same rows.")
    if rehearsal:
        click.echo("This was a rehearsal: do not start a service on the target.")
    else:
        click.echo("Set DATABASE_URL to the target, then start the service.")


def _read_url(url: str | None, file: TextIO | None) -> str:
    origin = click.get_current_context().get_parameter_source("url")
    is_argument = origin is click.core.ParameterSource.COMMANDLINE
    if file is not None:
        if is_argument:
            raise click.UsageError("Use --to or --to-file, not both.")
        url = read_line(file)
    elif url is None:
        if not sys.stdin.isatty():
            raise click.UsageError("Name the target with --to, --to-file or TARGET_DATABASE_URL.")
        url = str(click.prompt("URL of the target", hide_input=True, err=True))
    try:
        valid: str = TypeAdapter(DatabaseUrl).validate_python(url.strip())
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(f"The URL of the target {problem}.") from None
    if is_argument and _has_password(valid):
        click.echo(
            "Warning: the arguments of a process are visible to other users. "
            "Use --to-file for a URL with a password.",
            err=True,
        )
    return valid


def _has_password(url: str) -> bool:
    user_info = url.partition("://")[2].rpartition("@")[0]
    return not url.startswith("sqlite") and (":" in user_info or "password=" in url)


def _copy(source: Settings, target: Settings, *, is_rehearsal: bool) -> "list[CopiedTable]":
    from app.operations.database_copy.service import copy_database

    with ExitStack() as stack:
        bars: list[Any] = []  # one, as soon as the number of steps is known

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(
                    stack.enter_context(
                        click.progressbar(
                            length=total,
                            label="Copying and comparing",
                            file=sys.stderr,
                            hidden=not sys.stderr.isatty(),
                        )
                    )
                )
            bars[0].update(done - bars[0].pos)

        return asyncio.run(copy_database(source, target, is_rehearsal=is_rehearsal, progress=show))
