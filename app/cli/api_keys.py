"""Commands for API keys."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import PAGE_SIZE, check_arguments, get_user, run
from app.cli.output import (
    Records,
    as_json,
    confirm,
    print_change,
    print_json,
    print_record,
    scopes_text,
    yes,
)
from app.credentials.api_keys.errors import ApiKeyNotFoundError
from app.credentials.api_keys.limits import DEFAULT_DAYS, MAX_DAYS, MAX_OVERLAP_SECONDS
from hourpass.api_keys import ID_LENGTH, id_of, is_well_formed

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.credentials.api_keys.models import ApiKey
    from app.credentials.api_keys.schemas import ApiKeyRecord
    from app.services import Services
    from app.users.models import User

    Found = tuple[str, ApiKeyRecord]  # the name of the owner, and the key
    Operation = Callable[[RequestContext, int, str], Awaitable[ApiKey]]

# Members of the API's body, as the arguments and options are called.
_HINTS = {
    "name": "KEYNAME",
    "scopes": "--scope",
    "networks": "--network",
    "expires_in_days": "--days",
}


def _check_id(_context: click.Context, _argument: click.Parameter, text: str) -> str:
    if len(text) == ID_LENGTH and text.isascii():
        return text
    raise click.ClickException(ApiKeyNotFoundError.message)


def _check_id_or_key(context: click.Context, argument: click.Parameter, text: str) -> str:
    """To revoke a leaked key, an operator may paste all of it."""
    return id_of(text) if is_well_formed(text) else _check_id(context, argument, text)


_key_id = click.argument("key_id", metavar="ID", callback=_check_id)


@click.group()
def api_keys() -> None:
    """List, create, change, revoke, rotate, suspend and resume API keys."""


@api_keys.command("list")
@click.argument("username", metavar="NAME", required=False)
@click.option("--all", "of_all", is_flag=True, help="The keys of all users.")
@as_json
def list_keys(username: str | None, *, of_all: bool, as_json: bool) -> None:
    """List the keys of the user NAME, or of all users, without revoked and expired ones."""
    if of_all == (username is not None):
        raise click.UsageError("Give either the name of a user or --all.")

    async def show(services: "Services", context: "RequestContext") -> None:
        from app.credentials.api_keys.schemas import ApiKeyRecord

        user = await get_user(services, context, username) if username is not None else None
        widths = {"id": 8, "owner": 16, "status": 9, "expires": 10, "last_used": 10, "scopes": 24}
        records = Records(as_json=as_json, **widths, name=0)
        async for page in _read_pages(services, context, user):
            for api_key, owner in page:
                record = ApiKeyRecord.of(api_key, context.now)
                records.add(_members(owner, record), **_cells(record))

    run(show)


async def _read_pages(
    services: "Services", context: "RequestContext", user: "User | None"
) -> AsyncIterator[Sequence[tuple["ApiKey", str]]]:
    """The keys of the user, or of all users, with the names of their owners. No transaction is open
    while the caller prints a page."""
    from app.credentials.api_keys.schemas import ApiKeyQuery

    if user is None:
        last = ""
        while rows := await services.api_keys.list_of_all_users(context, last, PAGE_SIZE):
            await context.session.commit()
            yield rows
            last = rows[-1][0].id
            context.session.expunge_all()
        return
    query: ApiKeyQuery | None = ApiKeyQuery(limit=PAGE_SIZE)
    while query:
        found = await services.api_keys.list(context, user.id, query)
        page, cursor = query.paginate_by_time(found)
        await context.session.commit()
        yield [(api_key, user.username) for api_key in page]
        query = ApiKeyQuery(limit=PAGE_SIZE, cursor=cursor) if cursor else None


@api_keys.command()
@_key_id
@as_json
def show(key_id: str, *, as_json: bool) -> None:
    """Show a key, without its text. Also a revoked or expired one, for 90 days."""
    owner, record = _run_on(key_id, lambda services: services.api_keys.get)
    print_record(_members(owner, record), as_json=as_json)


@api_keys.command()
@click.argument("username", metavar="NAME")
@click.argument("keyname")
@click.option("--scope", "scopes", multiple=True, help="Can be repeated.  [default: the owner's]")
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=DEFAULT_DAYS,
    show_default=True,
    help="Lifetime in days.",
)
@click.option("--label", help="Such as a project.")
@click.option("--network", "networks", multiple=True, help="In CIDR notation. Can be repeated.")
@as_json
def create(
    username: str,
    keyname: str,
    scopes: Sequence[str],
    days: int,
    label: str | None,
    networks: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Create the key KEYNAME for the user NAME.

    The key goes to standard output, everything else to standard error. It is not shown again.
    """
    from app.credentials.api_keys.schemas import NewApiKey

    values = {
        "name": keyname,
        "label": label,
        "scopes": list(scopes) or None,
        "expires_in_days": days,
        "networks": list(networks),
    }
    new = check_arguments(NewApiKey, values, _HINTS)

    async def make(
        services: "Services", context: "RequestContext"
    ) -> tuple["ApiKey", str, datetime]:
        user = await get_user(services, context, username)
        return *await services.api_keys.create(context, user.id, new), context.now

    _print_new(username, *run(make), as_json=as_json)


@api_keys.command()
@_key_id
@click.option("--name", help="What the key is for.")
@click.option("--label", help="Such as a project. An empty text removes it.")
@click.option("--scope", "scopes", multiple=True, help="A scope that it keeps. Can be repeated.")
@click.option("--days", type=click.IntRange(1, MAX_DAYS), help="A shorter lifetime, from now.")
@click.option("--network", "networks", multiple=True, help="Replaces all. Can be repeated.")
@as_json
def change(
    key_id: str,
    scopes: Sequence[str],
    days: int | None,
    networks: Sequence[str],
    *,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Change a key. It never gets more scopes or a longer lifetime."""
    from app.credentials.api_keys.schemas import ApiKeyChange

    values = {
        **texts,
        "scopes": list(scopes) or None,
        "expires_in_days": days,
        "networks": list(networks) or None,
    }
    changes = check_arguments(ApiKeyChange, values, {**_HINTS, "name": "--name"})
    if not changes.changes():
        raise click.UsageError("Give at least one option.")

    def choose(services: "Services") -> "Operation":
        return lambda context, owner_id, id_: services.api_keys.update(
            context, owner_id, id_, changes
        )

    _change(key_id, "Changed", choose, as_json=as_json)


@api_keys.command()
@click.argument("key_id", metavar="ID", callback=_check_id_or_key)
@yes
@as_json
def revoke(key_id: str, *, yes: bool, as_json: bool) -> None:
    """Revoke a key and its access tokens, permanently. ID can also be the text of a leaked key."""
    confirm(f"Revoke the API key {key_id}?", is_confirmed=yes)
    _change(key_id, "Revoked", lambda services: services.api_keys.revoke, as_json=as_json)


@api_keys.command()
@_key_id
@click.option(
    "--overlap",
    type=click.IntRange(0, MAX_OVERLAP_SECONDS),
    default=0,
    show_default=True,
    help="Seconds for which the old key works beside the new one.",
)
@as_json
def rotate(key_id: str, overlap: int, *, as_json: bool) -> None:
    """Replace a key by a new one with the same name, rights and lifetime.

    The new key goes to standard output, everything else to standard error. It is not shown again.
    """

    async def replace(
        services: "Services", context: "RequestContext"
    ) -> tuple[str, "ApiKey", str, datetime]:
        owner_id = await services.api_keys.get_owner_id(context, key_id)
        span = timedelta(seconds=overlap)
        successor, key = await services.api_keys.rotate(context, owner_id, key_id, span)
        owner = await services.users.get(context, owner_id)
        return owner.username, successor, key, context.now

    _print_new(*run(replace), as_json=as_json)


@api_keys.command()
@_key_id
@as_json
def suspend(key_id: str, *, as_json: bool) -> None:
    """Suspend a key and revoke its access tokens. `resume` makes it work again."""
    _change(key_id, "Suspended", lambda services: services.api_keys.suspend, as_json=as_json)


@api_keys.command()
@_key_id
@as_json
def resume(key_id: str, *, as_json: bool) -> None:
    """Make a suspended key work again."""
    _change(key_id, "Resumed", lambda services: services.api_keys.resume, as_json=as_json)


def _change(
    key_id: str, done: str, choose: Callable[["Services"], "Operation"], *, as_json: bool
) -> None:
    owner, record = _run_on(key_id, choose)
    message = f"{done} the API key {record.id} ({record.name}) of {owner}."
    print_change(_members(owner, record), message, as_json=as_json)


def _run_on(key_id: str, choose: Callable[["Services"], "Operation"]) -> "Found":
    async def operate(services: "Services", context: "RequestContext") -> "Found":
        from app.credentials.api_keys.schemas import ApiKeyRecord

        owner_id = await services.api_keys.get_owner_id(context, key_id)
        api_key = await choose(services)(context, owner_id, key_id)
        owner = await services.users.get(context, owner_id)
        return owner.username, ApiKeyRecord.of(api_key, context.now)

    return run(operate)


def _print_new(owner: str, api_key: "ApiKey", key: str, now: datetime, *, as_json: bool) -> None:
    from app.credentials.api_keys.schemas import ApiKeyRecord

    record = ApiKeyRecord.of(api_key, now)
    if as_json:
        print_json({**_members(owner, record), "key": key})
        return
    click.echo(
        f"Created the API key {record.id} ({record.name}) of {owner}. It expires on "
        f"{record.expires_at:%F}. It is not shown again:",
        err=True,
    )
    click.echo(key)


def _members(owner: str, record: "ApiKeyRecord") -> dict[str, Any]:
    return {**record.model_dump(), "owner": owner}


def _cells(record: "ApiKeyRecord") -> dict[str, str]:
    return {
        "expires": f"{record.expires_at:%F}",
        "last_used": str(record.last_used_on or "never"),
        "scopes": "the owner's" if record.scopes is None else scopes_text(record.scopes),
        "name": f"{record.name} ({record.label})" if record.label else record.name,
    }
