"""Commands for the scopes of users: `hourpass users grant`, `revoke` and `set-scopes`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from app.cli.operations import check_scope, get_user, run
from app.cli.output import as_json, confirm, print_change, scopes_text, yes

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services

_username = click.argument("username", metavar="NAME")


def _check_scopes(
    _context: click.Context, _argument: click.Parameter, scopes: tuple[str, ...]
) -> set[str]:
    for scope in scopes:
        check_scope(scope)
    return set(scopes)


@click.command()
@_username
@click.argument("scopes", nargs=-1, required=True, callback=_check_scopes)
@as_json
def grant(username: str, scopes: set[str], *, as_json: bool) -> None:
    """Add scopes to those of a user. Revokes the user's tokens if that changes anything.

    `admin` makes the user an administrator, and `introspect` allows the user to introspect the
    tokens of others. Your APIs decide what other scopes mean. A `*` at the end of a name stands for
    the rest of any name, as in `predict:fraud-*`.
    """
    _change_scopes(username, lambda before: before | scopes, as_json=as_json)


@click.command()
@_username
@click.argument("scopes", nargs=-1, required=True)
@yes
@as_json
def revoke(username: str, scopes: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Remove scopes from those of a user. Revokes the user's tokens if that changes anything.

    Removes exactly the named scopes: with `predict:*`, the user keeps `predict:fraud-v3`. Asks for
    confirmation before it removes `admin` or the last scope.
    """
    _change_scopes(username, lambda before: before - set(scopes), is_confirmed=yes, as_json=as_json)


@click.command()
@_username
@click.argument("scopes", nargs=-1, callback=_check_scopes)
@yes
@as_json
def set_scopes(username: str, scopes: set[str], *, yes: bool, as_json: bool) -> None:
    """Replace all scopes of a user. Revokes the user's tokens if that changes anything.

    Without SCOPES, the user has none. Asks for confirmation before it removes `admin` or the last
    scope.
    """
    _change_scopes(username, lambda _: scopes, is_confirmed=yes, as_json=as_json)


def _change_scopes(
    username: str,
    change: Callable[[set[str]], set[str]],
    *,
    is_confirmed: bool = False,
    as_json: bool,
) -> None:
    confirmed = is_confirmed

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

    try:
        before, after = run(operation)
    except _ConfirmationNeeded as needed:
        # Asked without a transaction, which would block all other writers meanwhile.
        confirm(f"{username} loses {needed}. Continue?", is_confirmed=False)
        confirmed = True
        before, after = run(operation)
    record = {"username": username, "before": sorted(before), "after": sorted(after)}
    message = f"{username} had: {scopes_text(before)}.\n{username} now has: {scopes_text(after)}."
    print_change(record, message, as_json=as_json)


class _ConfirmationNeeded(Exception):  # noqa: N818 - it asks for an answer
    """The text says what the user loses."""
