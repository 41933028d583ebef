"""The `hourpass` command."""

import os
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app import __version__, standard_streams
from app.cli import keys, mail, restore, users
from app.cli.operations import run
from app.errors import ApiError, StartupError
from app.settings import Settings


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
    settings = Settings()
    migrations.upgrade(settings)
    # An error is printed once, by this process, instead of by each worker.
    run(lambda services, context: services.keys.load(context), must_be_writable=True)
    access_log.configure(settings)  # for the lines of the supervisor
    serve(
        host or settings.host,
        settings.port,
        settings.workers,
    )


@main.command()
def migrate() -> None:
    """Migrate the database to this version's schema."""
    from app.database import migrations

    migrations.upgrade(Settings())
    click.echo(f"The database is at {migrations.HEAD}.")


@main.command()
def settings() -> None:
    """Print every setting with its default and its description, as a .env file."""
    for name, field in Settings.model_fields.items():
        click.echo(f"# {field.description}\n{name.upper()}={_default(field)}")


for _command in (
    users.create_admin,
    users.set_password,
    users.grant,
    users.unlock,
    users.reset_second_factor,
    users.erase_user,
    keys.keys,
    mail.test_mail,
    restore.after_restore,
):
    main.add_command(_command)


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"])).upper()
    return f"{name} {problem['msg'].removeprefix('Value error, ')}".strip()


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, ()) else str(field.default)
