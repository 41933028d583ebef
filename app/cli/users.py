"""Commands for user accounts."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import get_user, read_password, run
from hourpass.scopes import find_error

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services


@click.command()
@click.argument("username")
@click.option("--email", help="The administrator's e-mail address.")
def create_admin(username: str, email: str | None) -> None:
    """Create an administrator.

    Prompts for the password, or reads it from standard input.
    """
    from app.users.schemas import NewAccount

    account = NewAccount.model_validate(
        {"username": username, "password": read_password(), "email": email}
    )

    async def create(services: "Services", context: "RequestContext") -> int:
        return await services.users.register(context, account, is_admin=True)

    click.echo(f"Created administrator {username} with id {run(create)}.")


@click.command()
@click.argument("username")
def set_password(username: str) -> None:
    """Change a user's password and revoke the user's tokens.

    Prompts for the password, or reads it from standard input.
    """
    from app.users.schemas import NewAccount

    account = NewAccount.model_validate({"username": username, "password": read_password()})

    async def change(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, account.username)
        await services.users.change_password(context, user.id, account.password.get_secret_value())

    run(change)
    click.echo(f"Changed the password of {username}.")


def _check_scopes(
    _context: click.Context, _argument: click.Parameter, scopes: tuple[str, ...]
) -> set[str]:
    from app.tokens.scopes import OFFLINE_ACCESS

    for scope in scopes:
        if error := find_error(scope):
            raise click.BadParameter(f"{scope!r}: {error}.")
        if scope == OFFLINE_ACCESS:
            raise click.BadParameter(f"{scope!r} is requested at a login. It cannot be granted.")
    return set(scopes)


_username = click.argument("username")
_yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


@click.command()
@_username
@click.argument("scopes", nargs=-1, required=True, callback=_check_scopes)
def grant(username: str, scopes: set[str]) -> None:
    """Add scopes to those of a user. Revokes the user's tokens if that changes anything.

    `admin` makes the user an administrator, and `introspect` allows the user to introspect the
    tokens of others. Your APIs decide what other scopes mean. A `*` at the end of a name stands for
    the rest of any name, as in `predict:fraud-*`.
    """
    _change_scopes(username, lambda before: before | scopes)


@click.command()
@_username
@click.argument("scopes", nargs=-1, required=True)
@_yes
def revoke(username: str, scopes: tuple[str, ...], *, yes: bool) -> None:
    """Remove scopes from those of a user. Revokes the user's tokens if that changes anything.

    Removes exactly the named scopes: with `predict:*`, the user keeps `predict:fraud-v3`. Asks for
    confirmation before it removes `admin` or the last scope.
    """
    _change_scopes(username, lambda before: before - set(scopes), is_confirmed=yes)


@click.command()
@_username
@click.argument("scopes", nargs=-1, callback=_check_scopes)
@_yes
def set_scopes(username: str, scopes: set[str], *, yes: bool) -> None:
    """Replace all scopes of a user. Revokes the user's tokens if that changes anything.

    Without SCOPES, the user has none. Asks for confirmation before it removes `admin` or the last
    scope.
    """
    _change_scopes(username, lambda _: scopes, is_confirmed=yes)


def _change_scopes(
    username: str, change: Callable[[set[str]], set[str]], *, is_confirmed: bool = False
) -> None:
    def change_confirmed(before: set[str]) -> set[str]:
        after = change(before)
        loses = ["admin"] if "admin" in before - after else []
        loses += ["every scope"] if before and not after else []
        if loses and not confirmed:
            raise _ConfirmationNeeded(" and ".join(loses))
        return after

    async def operation(
        services: "Services", context: "RequestContext"
    ) -> tuple[set[str], set[str]]:
        user = await get_user(services, context, username)
        return await services.users.change_scopes(context, user.id, change_confirmed)

    confirmed = is_confirmed
    try:
        before, after = run(operation)
    except _ConfirmationNeeded as needed:
        # Asked without a transaction, which would block all other writers meanwhile.
        click.confirm(f"{username} loses {needed}. Continue?", abort=True)
        confirmed = True
        before, after = run(operation)
    click.echo(f"{username} had: {_listed(before)}.\n{username} now has: {_listed(after)}.")


class _ConfirmationNeeded(Exception):  # noqa: N818 - it asks for an answer
    """The text says what the user loses."""


def _listed(scopes: set[str]) -> str:
    return " ".join(sorted(scopes)) or "no scopes"


def _check_ip_address(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IP address.") from None


@click.command()
@click.argument("username")
@click.option(
    "--ip-address",
    "--address",  # the name before version 0.2
    "ip_address",
    callback=_check_ip_address,
    help="Also clear the failed logins from this IP address.",
)
def unlock(username: str, ip_address: str | None) -> None:
    """Clear a user's counters of failed and successful logins, so that the user can log in at
    once."""

    async def forget(services: "Services", context: "RequestContext") -> bool:
        from app.database.engine import begin_write
        from app.security.rate_limits.service import clear
        from app.users.schemas import normalize_username

        user = await get_user(services, context, username)
        await begin_write(context.session)
        await clear(context.session, normalize_username(username), ip_address, all_accounts=True)
        await services.events.publish(context, "user.unlock", user.id)
        is_enabled = user.is_enabled
        await context.session.commit()
        return is_enabled

    can_log_in = run(forget)
    click.echo(f"Cleared the login counters of {username}.")
    if can_log_in:
        click.echo(f"{username} can log in again.")
    else:
        click.echo(f"{username} is disabled, and cannot log in until an administrator enables it.")


@click.command()
@click.argument("username")
def reset_second_factor(username: str) -> None:
    """Remove a user's second factor and revoke the user's tokens.

    For a user who has lost the phone and the recovery codes. Verify the identity of the user first.
    """

    async def reset(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, username)
        await services.second_factors.reset(context, user.id)

    run(reset)
    click.echo(f"Removed the second factor of {username}.")


@click.command()
@click.argument("user_id", type=click.IntRange(1, 2**63 - 1))
def erase_user(user_id: int) -> None:
    """Erase the personal data of a deleted user from the audit log.

    USER_ID is the id of the deleted user. The entries stay, without IP addresses, user agents and
    request ids. On PostgreSQL with two database roles, run it with the role that owns the tables.
    """
    number = run(lambda services, context: services.erasure.erase(context, user_id))
    entries = "1 entry" if number == 1 else f"{number} entries"
    click.echo(f"Erased the personal data in {entries} of the audit log.")
