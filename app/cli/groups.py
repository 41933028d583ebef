"""Commands for groups."""

from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import PAGE_SIZE, check_argument, get_user, read_pages, run
from app.cli.output import Records, as_json, confirm, print_change, print_json, scopes_text, yes

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.groups.models import Group
    from app.services import Services

_name = click.argument("name")


@click.group()
def groups() -> None:
    """Give the same scopes to several users."""


@groups.command("list")
@as_json
def list_groups(*, as_json: bool) -> None:
    """List all groups and their scopes."""

    async def show(services: "Services", context: "RequestContext") -> None:
        records = Records(as_json=as_json, id=6, name=20, scopes=0)
        async for page in read_pages(
            context, lambda last: services.groups.list(context, last, PAGE_SIZE)
        ):
            for group in page:
                records.add(_record(group), scopes=_scopes(group))

    run(show)


@groups.command()
@_name
@as_json
def show(name: str, *, as_json: bool) -> None:
    """Show the scopes and the members of a group."""

    async def read(
        services: "Services", context: "RequestContext"
    ) -> tuple["Group", list[dict[str, Any]]]:
        from app.groups.schemas import MemberRecord

        members: list[dict[str, Any]] = []
        async for page in read_pages(
            context, lambda last: services.groups.list_members(context, name, last, PAGE_SIZE)
        ):
            members += [MemberRecord.model_validate(member).model_dump() for member in page]
        return await services.groups.get(context, name), members

    group, members = run(read)
    if as_json:
        print_json({**_record(group), "members": members})
        return
    click.echo(f"{group.name}: {_scopes(group)}")
    records = Records(as_json=False, id=6, username=20, kind=0)
    for member in members:
        records.add(member)


@groups.command()
@_name
@click.argument("scopes", nargs=-1)
@as_json
def create(name: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Create a group with SCOPES.

    Every member has the scopes of the group besides its own.
    """
    valid_name = _check_name("NAME", name)
    valid_scopes = _check_scopes(scopes)

    async def make(services: "Services", context: "RequestContext") -> "Group":
        return await services.groups.create(context, valid_name, valid_scopes)

    group = run(make)
    print_change(_record(group), f"Created the group {group.name}.", as_json=as_json)


@groups.command()
@_name
@click.argument("scopes", nargs=-1)
@yes
@as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Replace the scopes of a group by SCOPES.

    Asks first if the group loses rights, which revokes the access tokens of its members. Their
    sessions stay. Without SCOPES, the group has none.
    """
    valid_scopes = _check_scopes(scopes)
    from app.groups.service import is_narrower

    before = _get(name).scopes
    after = " ".join(sorted(valid_scopes))
    if is_narrower(before, after):
        change = f"{before} -> {after or 'no scopes'}"
        question = f"{name}: {change}. Revoke the access tokens of its members?"
        confirm(question, is_confirmed=yes)

    async def change_scopes(services: "Services", context: "RequestContext") -> "Group":
        return await services.groups.update(context, name, scopes=valid_scopes)

    message = f"{name}: {before or 'no scopes'} -> {after or 'no scopes'}"
    print_change(_record(run(change_scopes)), message, as_json=as_json)


@groups.command()
@_name
@click.argument("new_name")
@as_json
def rename(name: str, new_name: str, *, as_json: bool) -> None:
    """Rename a group. Tokens stay valid."""
    valid_name = _check_name("NEW_NAME", new_name)

    async def change_name(services: "Services", context: "RequestContext") -> "Group":
        return await services.groups.update(context, name, new_name=valid_name)

    print_change(_record(run(change_name)), f"{name} -> {new_name}", as_json=as_json)


@groups.command()
@_name
@yes
def delete(name: str, *, yes: bool) -> None:
    """Delete a group, and revoke the access tokens of its members. Their sessions stay."""
    group = _get(name)
    about = f"{group.name} ({_scopes(group)})"
    confirm(f"Delete {about} and revoke the access tokens of its members?", is_confirmed=yes)
    run(lambda services, context: services.groups.delete(context, name))
    click.echo(f"Deleted the group {group.name}.")


@groups.command()
@_name
@click.argument("usernames", nargs=-1, required=True)
def add(name: str, usernames: tuple[str, ...]) -> None:
    """Add users to a group. Their next tokens have its scopes."""

    async def add_members(services: "Services", context: "RequestContext") -> None:
        users = [await get_user(services, context, username) for username in usernames]
        for user in users:
            await services.groups.add_member(context, name, user.id)

    run(add_members)
    click.echo(f"In {name}: {', '.join(usernames)}.")


@groups.command()
@_name
@click.argument("username")
@yes
def remove(name: str, username: str, *, yes: bool) -> None:
    """Remove a user from a group, and revoke the user's access tokens. Sessions stay."""
    question = f"Remove {username} from {name} and revoke the access tokens of {username}?"
    confirm(question, is_confirmed=yes)

    async def remove_member(services: "Services", context: "RequestContext") -> None:
        user = await get_user(services, context, username)
        await services.groups.remove_member(context, name, user.id)

    run(remove_member)
    click.echo(f"Removed {username} from {name}.")


def _get(name: str) -> "Group":
    return run(lambda services, context: services.groups.get(context, name))


def _check_name(argument: str, name: str) -> str:
    from app.groups.names import GroupName

    valid: str = check_argument(GroupName, argument, name)
    return valid


def _check_scopes(scopes: tuple[str, ...]) -> list[str]:
    from app.users.schemas import Scopes

    valid: list[str] = check_argument(Scopes, "SCOPES", scopes)
    return valid


def _record(group: "Group") -> dict[str, Any]:
    from app.groups.schemas import GroupRecord

    return GroupRecord.model_validate(group).model_dump()


def _scopes(group: "Group") -> str:
    return scopes_text(group.scopes.split())
