"""Commands for groups."""

import json
from typing import Any

import click
from pydantic import TypeAdapter

from app.cli.operations import get_user, run
from app.context import RequestContext
from app.groups.models import Group
from app.groups.names import GroupName
from app.groups.service import Member, is_narrower
from app.services import Services
from app.tokens.scopes import scope_string
from app.users.schemas import Scopes

PAGE_SIZE = 200

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_name = click.argument("name")


@click.group()
def groups() -> None:
    """Give the same scopes to several users."""


@groups.command("list")
@_as_json
def list_groups(as_json: bool) -> None:  # noqa: FBT001 - click passes options by name
    """List all groups and their scopes."""

    async def read(services: Services, context: RequestContext) -> list[Group]:
        found: list[Group] = []
        while page := await services.groups.list(context, found[-1].id if found else 0, PAGE_SIZE):
            found += page
        return found

    found = run(read)
    if as_json:
        click.echo(json.dumps([_fields(group) for group in found]))
        return
    for group in found:
        click.echo(_line(group))


@groups.command()
@_name
@_as_json
def show(name: str, as_json: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Print the scopes and the members of a group."""

    async def read(services: Services, context: RequestContext) -> tuple[Group, list[Member]]:
        members: list[Member] = []
        while page := await services.groups.list_members(
            context, name, members[-1].id if members else 0, PAGE_SIZE
        ):
            members += page
        return await services.groups.get(context, name), members

    group, members = run(read)
    if as_json:
        listed = [{"id": member.id, "username": member.username} for member in members]
        click.echo(json.dumps({**_fields(group), "members": listed}))
        return
    click.echo(_line(group))
    for member in members:
        click.echo(f"{member.id}  {member.username}")


@groups.command()
@_name
@click.argument("scopes", nargs=-1)
@_as_json
def create(name: str, scopes: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - as above
    """Create a group with SCOPES.

    Every member has the scopes of the group besides its own.
    """
    valid_name = _check(GroupName, "NAME", name)
    valid_scopes = _check(Scopes, "SCOPES", scopes)

    async def make(services: Services, context: RequestContext) -> Group:
        return await services.groups.create(context, valid_name, valid_scopes)

    _print(run(make), f"Created the group {name}.", as_json=as_json)


@groups.command()
@_name
@click.argument("scopes", nargs=-1)
@_yes
@_as_json
def set_scopes(
    name: str,
    scopes: tuple[str, ...],
    yes: bool,  # noqa: FBT001 - as above
    as_json: bool,  # noqa: FBT001 - as above
) -> None:
    """Replace the scopes of a group by SCOPES.

    Asks first if the group may then do less, which revokes the access tokens of its members. Their
    sessions stay. Without SCOPES, the group has none.
    """
    valid_scopes = _check(Scopes, "SCOPES", scopes)
    before = _get(name).scopes
    after = scope_string(valid_scopes)
    if is_narrower(before, after):
        change = f"{before} -> {after or 'no scopes'}"
        _confirm(yes, f"{name}: {change}. Revoke the access tokens of its members?")

    async def change_scopes(services: Services, context: RequestContext) -> Group:
        return await services.groups.update(context, name, scopes=valid_scopes)

    message = f"{name}: {before or 'no scopes'} -> {after or 'no scopes'}"
    _print(run(change_scopes), message, as_json=as_json)


@groups.command()
@_name
@click.argument("new_name")
@_as_json
def rename(name: str, new_name: str, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Rename a group. Tokens stay valid."""
    valid_name = _check(GroupName, "NEW_NAME", new_name)

    async def change_name(services: Services, context: RequestContext) -> Group:
        return await services.groups.update(context, name, new_name=valid_name)

    _print(run(change_name), f"{name} -> {new_name}", as_json=as_json)


@groups.command()
@_name
@_yes
def delete(name: str, yes: bool) -> None:  # noqa: FBT001 - as above
    """Delete a group, and revoke the access tokens of its members. Their sessions stay."""
    group = _get(name)
    scopes = group.scopes or "no scopes"
    _confirm(yes, f"Delete {group.name} ({scopes}) and revoke the access tokens of its members?")
    run(lambda services, context: services.groups.delete(context, name))
    click.echo(f"Deleted the group {group.name}.")


@groups.command()
@_name
@click.argument("usernames", nargs=-1, required=True)
def add(name: str, usernames: tuple[str, ...]) -> None:
    """Add users to a group. Their next tokens have its scopes."""

    async def add_members(services: Services, context: RequestContext) -> None:
        users = [await get_user(services, context, username) for username in usernames]
        for user in users:
            await services.groups.add_member(context, name, user.id)

    run(add_members)
    click.echo(f"In {name}: {', '.join(usernames)}.")


@groups.command()
@_name
@click.argument("username")
@_yes
def remove(name: str, username: str, yes: bool) -> None:  # noqa: FBT001 - as above
    """Remove a user from a group, and revoke the user's access tokens. Sessions stay."""
    _confirm(yes, f"Remove {username} from {name} and revoke the access tokens of {username}?")

    async def remove_member(services: Services, context: RequestContext) -> None:
        user = await get_user(services, context, username)
        await services.groups.remove_member(context, name, user.id)

    run(remove_member)
    click.echo(f"Removed {username} from {name}.")


def _get(name: str) -> Group:
    return run(lambda services, context: services.groups.get(context, name))


def _check(kind: Any, argument: str, value: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValueError as error:
        problems = error.errors()  # type: ignore[attr-defined] # Pydantic's
        raise click.BadParameter(problems[0]["msg"], param_hint=argument) from None


def _confirm(yes: bool, question: str) -> None:  # noqa: FBT001 - the option as it came
    if not yes:
        click.confirm(question, abort=True)


def _print(group: Group, message: str, *, as_json: bool) -> None:
    click.echo(json.dumps(_fields(group)) if as_json else message)


def _fields(group: Group) -> dict[str, object]:
    return {
        "id": group.id,
        "name": group.name,
        "scopes": group.scopes.split(),
        "created_at": group.created_at.isoformat(),
    }


def _line(group: Group) -> str:
    return f"{group.name}: {group.scopes or 'no scopes'}"
