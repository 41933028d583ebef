"""The `hourpass` command: serve, and the chores that need no running service."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import click
from email_validator import EmailNotValidError
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from sqlalchemy.ext.asyncio import AsyncSession

from app import __version__
from app.cli.restore import revoke_everything
from app.context import Caller
from app.credentials.second_factors.service import SecondFactors
from app.database import migrations
from app.database.engine import Database, begin_write, utc_now
from app.database.fast_queries import current_time
from app.errors import Refusal, StartupError
from app.events import Events
from app.security.passwords import Passwords
from app.security.rate_limits.service import Throttle, clear
from app.settings import Settings
from app.subscribers import listeners_for
from app.tokens.revocations.service import Revocations
from app.tokens.scopes import SCOPE
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.store import KeyStore
from app.users.errors import UserNotFoundError
from app.users.models import User
from app.users.reauthentication import Proof
from app.users.schemas import NewAccount, fold
from app.users.service import Users

Result = TypeVar("Result")


class _Hourpass(click.Group):
    """Says what an operator can mend in a line or two, with exit status 1 and no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            raise click.ClickException("\n".join(map(_explain, error.errors()))) from None
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
    from app.server import run

    settings = Settings()
    migrations.upgrade(settings)
    _run(lambda parts: parts.keys.load(utc_now()))  # what cannot work is said once, by the parent
    run.serve(
        host or settings.host,
        settings.port if port is None else port,
        workers or settings.workers,
    )


@main.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    migrations.upgrade(Settings())
    click.echo(f"The database is at {migrations.HEAD}.")


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

    async def create(parts: Parts) -> int:
        return await parts.users.register(account, utc_now(), is_admin=True)

    click.echo(f"Created administrator {username} with id {_run(create)}.")


@main.command()
@click.argument("username")
def set_password(username: str) -> None:
    """Change a user's password, which ends all of the user's tokens.

    Asks for the password without showing it, or reads it from standard input.
    """
    account = NewAccount.model_validate({"username": username, "password": _read_password()})

    async def change(parts: Parts) -> None:
        user = await _named(parts, account.username)
        await parts.users.change_password(user.id, account.password.get_secret_value(), utc_now())

    _run(change)
    click.echo(f"Changed the password of {username}.")


@main.command()
@click.argument("username")
@click.argument("scopes", nargs=-1)
def grant(username: str, scopes: tuple[str, ...]) -> None:
    """Set what a user's tokens may be used for, which ends those it has.

    SCOPES replace those of before; none at all takes every one away. `admin` makes an
    administrator, `introspect` lets a service ask about others' tokens; further ones are for the
    APIs that the tokens are shown to.
    """
    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            raise click.BadParameter(f"{scope!r} is no scope", param_hint="SCOPES")

    async def change(parts: Parts) -> None:
        user = await _named(parts, username)
        await parts.users.grant(user.id, set(scopes), utc_now())

    _run(change)
    click.echo(f"{username} now has: {' '.join(sorted(scopes)) or 'no scopes'}.")


@main.command()
@click.argument("username")
@click.option("--address", help="Forget what has failed from there as well.")
def unlock(username: str, address: str | None) -> None:
    """Forget a user's failed logins, and how many succeeded, so that the next need not wait."""

    async def forget(parts: Parts) -> None:
        user = await _named(parts, username)
        await begin_write(parts.session)
        await clear(parts.session, fold(username), address, of_all=True)
        await parts.events.announce("throttle.clear", user.id, utc_now())
        await parts.session.commit()

    _run(forget)
    click.echo(f"{username} can log in again.")


@main.command()
@click.argument("username")
def reset_second_factor(username: str) -> None:
    """Take away a user's second factor, which ends all of the user's tokens.

    For whoever lost the phone and the recovery codes. Make sure that it is them who ask.
    """

    async def reset(parts: Parts) -> None:
        user = await _named(parts, username)
        await parts.second_factors.reset(user.id, utc_now())

    _run(reset)
    click.echo(f"{username} has no second factor now.")


@main.command()
@click.argument("address")
def test_mail(address: str) -> None:
    """Send a mail to ADDRESS, to see whether SMTP_URL and MAIL_FROM are right."""
    settings = Settings()
    if settings.smtp_url is None:
        raise click.ClickException("This service sends no mail. Set SMTP_URL and MAIL_FROM.")
    import aiosmtplib

    from app.mail.messages import check_templates, compose
    from app.mail.smtp import MailRefusedError, send

    check_templates(settings)
    try:
        asyncio.run(send(settings, compose(settings, "test", address, "")))
    except (MailRefusedError, aiosmtplib.SMTPException, OSError) as error:
        raise click.ClickException(f"The mail could not be sent: {error}") from None
    except EmailNotValidError:
        raise click.BadParameter(
            f"{address!r} is no e-mail address", param_hint="ADDRESS"
        ) from None
    click.echo(f"Sent a mail to {address}.")


@main.group()
def keys() -> None:
    """List, rotate and revoke the signing keys."""


@keys.command("list")
def list_keys() -> None:
    """Show every key that verifies, the current one marked."""

    async def read(parts: Parts) -> Keyring:
        return await parts.keys.load(utc_now())

    keyring = _run(read)
    current = keyring.current(utc_now())
    for key in keyring.keys:
        mark = "*" if key is current else " "
        click.echo(f"{mark} {key.kid}  {key.algorithm}  signs from {key.activates_at:%F %T} UTC")


@keys.command()
def rotate() -> None:
    """Make the next signing key. It is published at once and signs after KEY_ANNOUNCE_SECONDS."""

    async def make(parts: Parts) -> str:
        # All hosts compare when it signs and when the one before can be purged.
        return await parts.keys.rotate(await current_time(parts.session), parts.events)

    click.echo(f"The next key is {_run(make)}.")


@keys.command()
@click.argument("kid")
def revoke(kid: str) -> None:
    """Take away a stolen key, which ends every token that it signed."""

    async def take_away(parts: Parts) -> None:
        now = await current_time(parts.session)
        await begin_write(parts.session)
        await parts.keys.replace(kid, now)
        await parts.revocations.publish(f"kid:{kid}")
        await parts.events.announce("key.revoke", None, now, kid=kid)
        await parts.session.commit()

    _run(take_away)
    click.echo(f"Revoked {kid}.")


@main.command()
@click.confirmation_option(
    "--yes",
    prompt="Revoke every signing key, token, session and one-time code?",
    help="Do not ask.",
)
def after_restore() -> None:
    """Make a restored database safe: revoke all that was issued before.

    Run it before the service starts on a database that was restored from a backup, copied, or taken
    over from a standby that lacked the last changes. Everybody has to log in again.
    """

    async def revoke_all(parts: Parts) -> list[str]:
        session, keys, revocations = parts.session, parts.keys, parts.revocations
        return await revoke_everything(session, keys, revocations, parts.events, utc_now())

    kids = _run(revoke_all)
    number = "1 signing key" if len(kids) == 1 else f"{len(kids)} signing keys"
    click.echo(f"Revoked {number} and all tokens, sessions and one-time codes.")
    if Settings().signing_algorithm == "HS256":
        click.echo("Now change HS256_SECRET here and in your APIs: it signed the old tokens.")
    click.echo("Do again what was changed after the backup: docs/restore.md has a list.")


@main.command()
def settings() -> None:
    """Print every setting with its default and its reason, as a .env file."""
    for name, field in Settings.model_fields.items():
        click.echo(f"# {field.description}\n{name.upper()}={_default(field)}")


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"])).upper()
    return f"{name} {problem['msg'].removeprefix('Value error, ')}".strip()


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, ()) else str(field.default)


def _read_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")


class Parts(NamedTuple):
    session: AsyncSession
    users: Users
    second_factors: SecondFactors
    keys: KeyStore
    revocations: Revocations
    events: Events


async def _named(parts: Parts, username: str) -> User:
    """Raises UserNotFoundError."""
    if user := await parts.users.find(username):
        return user
    raise UserNotFoundError


def _run(work: Callable[[Parts], Awaitable[Result]]) -> Result:
    """Run one of the service's own verbs against the configured database."""

    async def run() -> Result:
        settings = Settings()
        passwords = Passwords(settings)
        database = Database(settings)
        try:
            await migrations.check(database.engine)
            async with database.session() as session:
                lifetime = timedelta(minutes=settings.token_minutes)
                revocations = Revocations(session, lifetime)
                caller = Caller(user_agent="hourpass")
                events = Events(session, caller, listeners_for(settings))
                users = Users(session, passwords, revocations, events)
                proof = Proof(session, users, passwords, Throttle(settings), events, caller)
                factors = SecondFactors(proof, settings)
                keys = KeyStore(session, settings)
                return await work(Parts(session, users, factors, keys, revocations, events))
        finally:
            passwords.close()
            await database.close()

    return asyncio.run(run())


if __name__ == "__main__":
    main()
