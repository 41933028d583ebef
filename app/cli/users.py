"""Commands for user accounts."""

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import get_user, read_password, run

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


@click.command()
@click.argument("username")
@click.argument("scopes", nargs=-1)
def grant(username: str, scopes: tuple[str, ...]) -> None:
    """Replace a user's scopes and revoke the current tokens.

    Without SCOPES, the user has none. `admin` makes the user an administrator, and `introspect`
    allows the user to introspect the tokens of others. Your APIs decide what other scopes mean.
    """
    from app.tokens.scopes import SCOPE

    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            raise click.BadParameter(f"{scope!r} is not a scope", param_hint="SCOPES")

    async def change(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, username)
        await services.users.set_scopes(context, user.id, set(scopes))

    run(change)
    click.echo(f"{username} now has: {' '.join(sorted(scopes)) or 'no scopes'}.")


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
