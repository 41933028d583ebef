"""Commands for what users log in with: passwords, tokens, second factors, and the login limits."""

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import check_arguments, get_user, read_password, run
from app.cli.output import as_json, as_text, confirm, print_json, yes

if TYPE_CHECKING:
    from app.accounts.password_resets.schemas import AdminPasswordResetDone
    from app.context import RequestContext
    from app.services import Services

_username = click.argument("username", metavar="NAME")


@click.command()
@_username
def set_password(username: str) -> None:
    """Change a user's password and revoke the user's tokens.

    Prompts for the password, or reads it from standard input. API keys stay as they are.
    """
    from app.users.schemas import NewAccount

    account = NewAccount.model_validate({"username": username, "password": read_password()})

    async def change(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, account.username)
        await services.users.change_password(context, user.id, account.password.get_secret_value())

    run(change)
    click.echo(f"Changed the password of {username}.")


@click.command()
@_username
@click.option("--mail", "by_mail", is_flag=True, help="Mail the code to the user's address.")
@click.option("--language", help="Language of the mail, such as `de`.  [default: English]")
@click.option("--resend", is_flag=True, help="Mail the code of the open reset again.")
@yes
@as_json
def reset_password(
    username: str,
    language: str | None,
    *,
    by_mail: bool,
    resend: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Force a user to set a new password, with a code that is valid for a day.

    Invalidates the password, and revokes all tokens, sessions and API keys of the user at once. The
    code goes to standard output, everything else to standard error. It is not shown again.
    `hourpass users show` shows the state of a mail.
    """
    from app.accounts.password_resets.schemas import AdminPasswordReset, AdminPasswordResetDone

    forced = check_arguments(AdminPasswordReset, {"by_mail": by_mail, "language": language})
    if resend:
        _mail_again(username, forced.language, as_json=as_json)
        return
    question = f"Revoke the password, tokens, sessions and API keys of {username}?"
    confirm(question, is_confirmed=yes)

    async def force(services: "Services", context: "RequestContext") -> "AdminPasswordResetDone":
        user = await get_user(services, context, username)
        code, text = await services.password_resets.force(
            context, user.id, by_mail=forced.by_mail, language=forced.language
        )
        return AdminPasswordResetDone.of(code, None if forced.by_mail else text)

    _print_reset(username, run(force), as_json=as_json)


def _mail_again(username: str, language: str | None, *, as_json: bool) -> None:
    async def resend(services: "Services", context: "RequestContext") -> "AdminPasswordResetDone":
        from app.accounts.password_resets.schemas import AdminPasswordResetDone

        user = await get_user(services, context, username)
        code = await services.password_resets.resend(context, user.id, language)
        return AdminPasswordResetDone.of(code, None)

    _print_reset(username, run(resend), as_json=as_json)


def _print_reset(username: str, reset: "AdminPasswordResetDone", *, as_json: bool) -> None:
    if as_json:
        print_json(reset.model_dump())
        return
    expires = as_text(reset.expires_at)
    if reset.code is None:
        click.echo(f"The code is mailed to {username}. It is valid until {expires}.")
        return
    click.echo(
        f"{username} can set a new password with this code until {expires}. It is not shown again:",
        err=True,
    )
    click.echo(reset.code)


@click.command()
@_username
def revoke_tokens(username: str) -> None:
    """Revoke all tokens and sessions of a user, who stays enabled and can log in again."""

    async def revoke(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, username)
        await services.users.revoke_tokens(context, user.id)

    run(revoke)
    click.echo(f"Revoked all tokens and sessions of {username}.")


@click.command()
@_username
def reset_second_factor(username: str) -> None:
    """Remove a user's second factor and revoke the user's tokens.

    For a user who has lost the phone and the recovery codes. Verify the identity of the user first.
    """

    async def reset(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, username)
        await services.second_factors.reset(context, user.id)

    run(reset)
    click.echo(f"Removed the second factor of {username}.")


def _check_ip_address(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IP address.") from None


@click.command()
@_username
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
        from app.users.login_account import normalize_username

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
