"""The `hourpass` command."""

import os
from typing import Any

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app import __version__, standard_streams
from app.cli import keys, mail, restore, settings, users
from app.cli.lazy_group import LazyGroup
from app.cli.operations import read_settings, run
from app.errors import ApiError, StartupError


class _Hourpass(click.Group):
    """Prints errors that an operator can correct in a line or two, with exit status 1 and without a
    traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        standard_streams.open_closed()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            raise click.ClickException("\n".join(map(_explain, error.errors()))) from None
        except (ApiError, StartupError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Hourpass, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hourpass")
def main() -> None:
    """User accounts and 60-minute tokens for machine-learning APIs."""


@main.command()
@click.option("--host", help="Address to listen on.  [default: HOST, or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="[default: PORT, or 8000]")
@click.option("--workers", type=click.IntRange(1, 256), help="[default: WORKERS, or 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Migrate the database, then serve until interrupted."""
    from app.database import migrations
    from app.http import access_log
    from app.server.run import serve

    if port is not None:
        os.environ["PORT"] = str(port)  # for the workers: without ISSUER, they name it in tokens
    if workers is not None:
        os.environ["WORKERS"] = str(workers)  # for the workers: they share the memory
    current = read_settings()
    migrations.upgrade(current)
    # An error is printed once, by this process, instead of by each worker.
    run(lambda services, context: services.keys.load(context), must_be_writable=True)
    access_log.configure(current)  # for the lines of the supervisor
    serve(
        host or current.host,
        current.port,
        current.workers,
    )


@main.command()
def migrate() -> None:
    """Migrate the database to this version's schema."""
    from app.database import migrations

    migrations.upgrade(read_settings())
    click.echo(f"The database is at {migrations.HEAD}.")


for _command in (
    users.create_admin,
    users.set_password,
    users.grant,
    users.revoke,
    users.set_scopes,
    users.unlock,
    users.reset_second_factor,
    users.erase_user,
    LazyGroup("api-keys", "app.cli.api_keys", "Manage API keys."),
    LazyGroup("groups", "app.cli.groups", "Give the same scopes to several users."),
    keys.keys,
    LazyGroup("service-accounts", "app.cli.service_accounts", "Manage users that are programs."),
    mail.test_mail,
    restore.after_restore,
    settings.settings,
):
    main.add_command(_command)


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"])).upper()
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
