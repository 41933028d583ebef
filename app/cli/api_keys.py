"""Commands for API keys."""

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from pydantic import ValidationError

from app.cli.operations import get_user, run
from app.context import RequestContext
from app.credentials.api_keys.errors import ApiKeyNotFoundError
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.schemas import (
    DEFAULT_DAYS,
    MAX_DAYS,
    MAX_OVERLAP_SECONDS,
    ApiKeyQuery,
    ApiKeyRecord,
    NewApiKey,
)
from app.services import Services
from hourpass.api_keys import ID_LENGTH, id_of, is_well_formed

_PAGE_SIZE = 200

Found = tuple[str, ApiKeyRecord]  # the name of the owner, and the key

_COLUMNS = ("ID", "OWNER", "STATUS", "EXPIRES", "LAST USED", "SCOPES", "NAME")


def _check_id(_context: click.Context, _argument: click.Parameter, text: str) -> str:
    """What a terminal sends may be no text that a database takes."""
    if len(text) == ID_LENGTH and text.isascii():
        return text
    raise click.ClickException(ApiKeyNotFoundError.message)


def _check_id_or_key(context: click.Context, argument: click.Parameter, text: str) -> str:
    """A key that has leaked is at hand as a whole."""
    return id_of(text) if is_well_formed(text) else _check_id(context, argument, text)


_key_id = click.argument("key_id", metavar="ID", callback=_check_id)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


@click.group()
def api_keys() -> None:
    """List, create, revoke, rotate, suspend and resume API keys."""


@api_keys.command("list")
@click.argument("username", metavar="NAME", required=False)
@click.option("--all", "of_all", is_flag=True, help="The keys of all users.")
@_as_json
def list_keys(username: str | None, *, of_all: bool, as_json: bool) -> None:
    """List the keys of the user NAME, or of all users, without revoked and expired ones."""
    if of_all == (username is not None):
        raise click.UsageError("Give either the name of a user or --all.")

    async def show(services: Services, context: RequestContext) -> None:
        """Page by page: there may be a million."""
        user = await get_user(services, context, username) if username is not None else None
        if not as_json:
            click.echo(_row(_COLUMNS))
        if user is not None:
            query = ApiKeyQuery(limit=_PAGE_SIZE)
            while True:
                found = await services.api_keys.list(context, user.id, query)
                page, further = query.paginate_by_time(found)
                for api_key in page:
                    _print(user.username, api_key, context.now, as_json=as_json)
                if further is None:
                    return
                query = ApiKeyQuery(limit=_PAGE_SIZE, cursor=further)
        last = ""
        while rows := await services.api_keys.list_of_all_users(context, last, _PAGE_SIZE):
            for api_key, owner in rows:
                _print(owner, api_key, context.now, as_json=as_json)
            last = rows[-1][0].id
            context.session.expunge_all()

    run(show)


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
@_as_json
def create(  # noqa: PLR0913, PLR0917 - the options
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
    try:
        new = NewApiKey(
            name=keyname,
            label=label,
            scopes=list(scopes) or None,
            expires_in_days=days,
            networks=list(networks),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise click.BadParameter(problem["msg"], param_hint=_option_of(problem["loc"])) from None

    async def make(services: Services, context: RequestContext) -> tuple[ApiKey, str, datetime]:
        user = await get_user(services, context, username)
        return *await services.api_keys.create(context, user.id, new), context.now

    _print_new(username, *run(make), as_json=as_json)


@api_keys.command()
@click.argument("key_id", metavar="ID", callback=_check_id_or_key)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_as_json
def revoke(key_id: str, *, yes: bool, as_json: bool) -> None:
    """Revoke a key and its access tokens, for ever. ID can also be the whole key, if it leaked."""
    if not yes:
        click.confirm(f"Revoke the API key {key_id}?", abort=True, err=True)
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
@_as_json
def rotate(key_id: str, overlap: int, *, as_json: bool) -> None:
    """Replace a key by a new one with the same name, rights and lifetime.

    The new key goes to standard output, everything else to standard error. It is not shown again.
    """

    async def replace(
        services: Services, context: RequestContext
    ) -> tuple[str, ApiKey, str, datetime]:
        owner_id = await services.api_keys.get_owner_id(context, key_id)
        span = timedelta(seconds=overlap)
        successor, key = await services.api_keys.rotate(context, owner_id, key_id, span)
        owner = await services.users.get(context, owner_id)
        return owner.username, successor, key, context.now

    _print_new(*run(replace), as_json=as_json)


@api_keys.command()
@_key_id
@_as_json
def suspend(key_id: str, *, as_json: bool) -> None:
    """Suspend a key and revoke its access tokens. `resume` makes it work again."""
    _change(key_id, "Suspended", lambda services: services.api_keys.suspend, as_json=as_json)


@api_keys.command()
@_key_id
@_as_json
def resume(key_id: str, *, as_json: bool) -> None:
    """Make a suspended key work again."""
    _change(key_id, "Resumed", lambda services: services.api_keys.resume, as_json=as_json)


Operation = Callable[[RequestContext, int, str], Awaitable[ApiKey]]


def _change(
    key_id: str, done: str, choose: Callable[[Services], Operation], *, as_json: bool
) -> None:
    async def change(services: Services, context: RequestContext) -> Found:
        owner_id = await services.api_keys.get_owner_id(context, key_id)
        changed = await choose(services)(context, owner_id, key_id)
        owner = await services.users.get(context, owner_id)
        return owner.username, ApiKeyRecord.of(changed, context.now)

    owner, record = run(change)
    if as_json:
        click.echo(_json(owner, record))
    else:
        click.echo(f"{done} the API key {record.id} ({record.name}) of {owner}.")


def _print(owner: str, api_key: ApiKey, now: datetime, *, as_json: bool) -> None:
    record = ApiKeyRecord.of(api_key, now)
    if as_json:
        click.echo(_json(owner, record))
        return
    scopes = "the owner's" if record.scopes is None else " ".join(record.scopes) or "none"
    last_used = str(record.last_used_on or "never")
    expires = f"{record.expires_at:%F}"
    name = f"{record.name} ({record.label})" if record.label else record.name
    click.echo(_row((record.id, owner, record.status, expires, last_used, scopes, name)))


def _print_new(owner: str, api_key: ApiKey, key: str, now: datetime, *, as_json: bool) -> None:
    record = ApiKeyRecord.of(api_key, now)
    if as_json:
        click.echo(_json(owner, record, key=key))
        return
    click.echo(
        f"Created the API key {record.id} ({record.name}) of {owner}. It expires on "
        f"{record.expires_at:%F}. It is not shown again:",
        err=True,
    )
    click.echo(key)


def _json(owner: str, record: ApiKeyRecord, **members: Any) -> str:
    return json.dumps({**record.model_dump(mode="json"), "owner": owner, **members})


def _row(cells: Sequence[str]) -> str:
    """Columns of the usual width. The last two are as long as they need."""
    widths = (8, 16, 9, 10, 10, 24, 0)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _option_of(location: Sequence[int | str]) -> str:
    names = {"name": "KEYNAME", "scopes": "--scope", "networks": "--network"}
    member = str(location[0])
    return names.get(member, f"--{member}")
