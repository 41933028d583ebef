"""Commands for user accounts. Those for scopes and for credentials are in modules of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from app.cli import user_credentials, user_scopes
from app.cli.operations import (
    DATABASE_ID,
    PAGE_SIZE,
    check_arguments,
    get_user,
    read_pages,
    read_password,
    run,
)
from app.cli.output import (
    Records,
    as_json,
    confirm,
    counted,
    print_change,
    print_record,
    scopes_text,
    yes,
)

if TYPE_CHECKING:
    from app.accounts.admin.schemas import UserRecord
    from app.context import RequestContext
    from app.services import Services
    from app.users.models import User

_username = click.argument("username", metavar="NAME")


@click.group()
def users() -> None:
    """List, create, change, disable and delete users."""


for _command in (
    user_scopes.grant,
    user_scopes.revoke,
    user_scopes.set_scopes,
    user_credentials.set_password,
    user_credentials.reset_password,
    user_credentials.revoke_tokens,
    user_credentials.reset_second_factor,
    user_credentials.unlock,
):
    users.add_command(_command)


@users.command("list")
@click.option("--search", help="The beginning of a name, or a whole e-mail address.")
@click.option("--enabled/--disabled", "is_enabled", default=None, help="Only these users.")
@click.option("--admin/--no-admin", "is_admin", default=None, help="Only these users.")
@click.option(
    "--kind", type=click.Choice(["person", "service"]), help="Only people or service accounts."
)
@as_json
def list_users(*, as_json: bool, **filters: Any) -> None:
    """List users, oldest first."""
    from app.accounts.admin.schemas import UserQuery

    query = check_arguments(UserQuery, filters)

    async def show(services: "Services", context: "RequestContext") -> None:
        from app.accounts.admin.service import describe

        async def read(last: int) -> Sequence["UserRecord"]:
            found = await services.users.list(
                context,
                last,
                PAGE_SIZE,
                search=query.search,
                is_enabled=query.is_enabled,
                is_admin=query.is_admin,
                kind=query.kind,
            )
            return await describe(context, found)

        records = Records(
            as_json=as_json, id=6, username=20, kind=7, state=8, scopes=24, groups=16, email=0
        )
        async for page in read_pages(context, read):
            for record in page:
                state = "enabled" if record.is_enabled else "disabled"
                records.add(record.model_dump(), state=state, scopes=_scopes(record))

    run(show)


@users.command()
@_username
@as_json
def show(username: str, *, as_json: bool) -> None:
    """Show a user: the account, its scopes and groups, and what it logs in with."""

    async def read(services: "Services", context: "RequestContext") -> dict[str, Any]:
        from app.accounts.admin.service import describe
        from app.accounts.password_resets.errors import PasswordResetNotFoundError
        from app.accounts.password_resets.schemas import OpenPasswordReset

        user = await get_user(services, context, username)
        (record,) = await describe(context, [user])
        sessions = await services.sessions.list_for_user(context, user.id)
        try:
            forced = await services.password_resets.get_forced(context, user.id)
            reset = OpenPasswordReset.model_validate(forced).model_dump(exclude={"user_id"})
        except PasswordResetNotFoundError:
            reset = None
        return {
            **record.model_dump(),
            "has_second_factor": await services.second_factors.is_enabled(context, user.id),
            "sessions": len(sessions),
            "password_reset": reset,
        }

    print_record(run(read), as_json=as_json)


@users.command()
@_username
@click.option("--email", help="The user's e-mail address.")
@click.option("--admin", "is_admin", is_flag=True, help="Create an administrator.")
@click.option("--scope", "scopes", multiple=True, help="A scope of the user. Can be repeated.")
@as_json
def create(
    username: str, email: str | None, scopes: tuple[str, ...], *, is_admin: bool, as_json: bool
) -> None:
    """Create a user.

    Prompts for the password, or reads it from standard input.
    """
    kind = "administrator" if is_admin else "user"
    record = _create(username, email=email, is_admin=is_admin, scopes=scopes)
    message = f"Created {kind} {username} with id {record.id}."
    print_change(record.model_dump(), message, as_json=as_json)


@click.command()
@click.argument("username")
@click.option("--email", help="The administrator's e-mail address.")
def create_admin(username: str, email: str | None) -> None:
    """Create an administrator, as `hourpass users create --admin` does.

    Prompts for the password, or reads it from standard input.
    """
    record = _create(username, email=email, is_admin=True)
    click.echo(f"Created administrator {username} with id {record.id}.")


def _create(
    username: str, *, email: str | None, is_admin: bool, scopes: tuple[str, ...] = ()
) -> "UserRecord":
    from app.accounts.admin.schemas import NewUserByAdmin

    account = NewUserByAdmin.model_validate(
        {
            "username": username,
            "password": read_password(),
            "email": email,
            "is_admin": is_admin,
            "scopes": list(scopes),
        }
    )

    async def make(services: "Services", context: "RequestContext") -> "UserRecord":
        user_id = await services.users.register(
            context, account, is_admin=account.is_admin, scopes=account.scopes
        )
        return await _describe_one(context, await services.users.get(context, user_id))

    return run(make)


@users.command()
@_username
@click.option("--email", help="The new e-mail address. An empty text removes it.")
@click.option(
    "--email-verified/--email-unverified",
    "email_verified",
    default=None,
    help="Mark the address as verified, or as not verified.",
)
@as_json
def change(username: str, *, as_json: bool, **values: Any) -> None:
    """Change a user's e-mail address."""
    from app.accounts.admin.schemas import UserChange

    changes = check_arguments(UserChange, values).changes()
    if not changes:
        raise click.UsageError("Give at least one option.")

    async def update(services: "Services", context: "RequestContext") -> "UserRecord":
        user = await get_user(services, context, username)
        return await _describe_one(
            context, await services.users.change(context, user.id, **changes)
        )

    record = run(update)
    address = "no e-mail address"
    if record.email:
        state = "verified" if record.email_verified else "not verified"
        address = f"the e-mail address {record.email} ({state})"
    print_change(record.model_dump(), f"{record.username} has {address}.", as_json=as_json)


@users.command()
@_username
@as_json
def disable(username: str, *, as_json: bool) -> None:
    """Disable a user and revoke the user's tokens, sessions and API keys' tokens at once."""
    record = _set_enabled(username, enabled=False)
    message = f"Disabled {record.username}. All tokens of {record.username} are revoked."
    print_change(record.model_dump(), message, as_json=as_json)


@users.command()
@_username
@as_json
def enable(username: str, *, as_json: bool) -> None:
    """Enable a user, or a service account with its API keys, again.

    Tokens and sessions from before stay revoked.
    """
    record = _set_enabled(username, enabled=True)
    message = f"Enabled {record.username}. Tokens and sessions from before stay revoked."
    print_change(record.model_dump(), message, as_json=as_json)


def _set_enabled(username: str, *, enabled: bool) -> "UserRecord":
    async def update(services: "Services", context: "RequestContext") -> "UserRecord":
        user = await get_user(services, context, username)
        await services.users.set_enabled(context, user.id, enabled=enabled)
        return await _describe_one(context, await services.users.get(context, user.id))

    return run(update)


@users.command()
@_username
@yes
@as_json
def delete(username: str, *, yes: bool, as_json: bool) -> None:
    """Delete a user, and revoke the user's tokens, sessions and API keys. The id is not used again.

    The audit log keeps its entries. `hourpass users erase` removes what identifies the person.
    """

    async def describe_user(services: "Services", context: "RequestContext") -> "UserRecord":
        return await _describe_one(context, await get_user(services, context, username))

    record = run(describe_user)
    about = f"{record.username} (id {record.id}, {_scopes(record)})"
    confirm(f"Delete {about}? This cannot be undone.", is_confirmed=yes)
    run(lambda services, context: services.users.remove(context, record.id))
    print_change(
        {"id": record.id, "username": record.username},
        f"Deleted {record.username}, whose id was {record.id}.",
        as_json=as_json,
    )


@users.command()
@click.argument("user_id", metavar="ID", type=DATABASE_ID)
@yes
def erase(user_id: int, *, yes: bool) -> None:
    """Erase the personal data of a deleted user from the audit log.

    ID is the id of the deleted user. The entries stay, without IP addresses, user agents and
    request ids. On PostgreSQL with two database roles, run it with the role that owns the tables.
    """
    question = f"Erase the personal data of the deleted user {user_id}? This cannot be undone."
    confirm(question, is_confirmed=yes)
    erase_by_id(user_id)


def erase_by_id(user_id: int) -> None:
    """Without a question."""
    number = run(lambda services, context: services.erasure.erase(context, user_id))
    entries = counted(number, "entry", "entries")
    click.echo(f"Erased the personal data in {entries} of the audit log.")


async def _describe_one(context: "RequestContext", user: "User") -> "UserRecord":
    from app.accounts.admin.service import describe

    (record,) = await describe(context, [user])
    return record


def _scopes(record: "UserRecord") -> str:
    return scopes_text({*record.scopes, *(["admin"] if record.is_admin else [])})
