"""The `hourpass` command: serve, and the chores that need no running service."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app import __version__, schema
from app.database import Database, utc_now
from app.errors import Refusal, StartupError
from app.passwords import Passwords
from app.settings import Settings
from app.users.errors import UserNotFoundError
from app.users.schemas import NewAccount
from app.users.service import Users


class _Hourpass(click.Group):
    """Says what an operator can mend in a line or two, with exit status 1 and no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, problem['loc'])).upper()} {problem['msg']}".strip()
                for problem in error.errors()
            ]
            raise click.ClickException("\n".join(problems)) from None
        except Refusal as refusal:
            raise click.ClickException(str(refusal)) from None
        except StartupError as error:
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
    import uvicorn

    from app.protocol import BoundedHttpProtocol

    settings = Settings()
    schema.upgrade(settings)
    uvicorn.run(
        "app.main:app",
        host=host or settings.host,
        port=settings.port if port is None else port,
        workers=workers or settings.workers,
        http=BoundedHttpProtocol,
        ws="none",
        log_config=None,  # logs.py sends uvicorn's lines where ours go
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )


@main.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    schema.upgrade(Settings())
    click.echo(f"The database is at {schema.HEAD}.")


@main.command()
@click.argument("username")
@click.option("--email", help="The administrator's e-mail address.")
def create_admin(username: str, email: str | None) -> None:
    """Create an administrator.

    Asks for the password without showing it, or reads it from standard input.
    """
    account = NewAccount.model_validate(
        {"username": username, "password": _read_password(), "email": email}
    )

    async def create(users: Users) -> int:
        return await users.register(account, utc_now(), is_admin=True)

    click.echo(f"Created administrator {username} with id {_with_users(create)}.")


@main.command()
@click.argument("username")
def set_password(username: str) -> None:
    """Change a user's password, which ends all of the user's tokens.

    Asks for the password without showing it, or reads it from standard input.
    """
    account = NewAccount.model_validate({"username": username, "password": _read_password()})

    async def change(users: Users) -> None:
        user = await users.find(account.username)
        if user is None:
            raise UserNotFoundError
        await users.change_password(user.id, account.password.get_secret_value())

    _with_users(change)
    click.echo(f"Changed the password of {username}.")


@main.command()
def settings() -> None:
    """Print every setting with its default and its reason, as a .env file."""
    for name, field in Settings.model_fields.items():
        click.echo(f"# {field.description}\n{name.upper()}={_default(field)}")


def _default(field: FieldInfo) -> str:
    return "" if field.default is None else str(field.default)


def _read_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")


def _with_users(work: Callable[[Users], Awaitable[Any]]) -> Any:
    """Run one of the service's own verbs against the configured database."""

    async def run() -> Any:
        settings = Settings()
        passwords = Passwords(settings)
        database = Database(settings)
        try:
            await schema.check(database.engine)
            async with database.session() as session:
                return await work(Users(session, passwords))
        finally:
            passwords.close()
            await database.close()

    return asyncio.run(run())


if __name__ == "__main__":
    main()
