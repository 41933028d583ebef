"""Commands for sessions: the logins that last."""

import re
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import get_user, run
from app.cli.output import Records, as_json, counted, print_change

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services

_ID = re.compile("[0-9a-f]{16}")


@click.group()
def sessions() -> None:
    """List and revoke sessions: logins with the scope offline_access."""


@sessions.command("list")
@click.argument("username", metavar="NAME")
@as_json
def list_sessions(username: str, *, as_json: bool) -> None:
    """List the sessions of the user NAME, newest first."""

    async def read(services: "Services", context: "RequestContext") -> list[dict[str, Any]]:
        from app.credentials.sessions.schemas import SessionInfo

        user = await get_user(services, context, username)
        found = await services.sessions.list_for_user(context, user.id)
        return [SessionInfo.model_validate(session).model_dump() for session in found]

    found = run(read)
    records = Records(
        as_json=as_json,
        id=16,
        created_at=20,
        last_used_at=20,
        expires_at=20,
        address=15,
        user_agent=0,
    )
    for record in found:
        records.add(record)


@sessions.command()
@click.argument("session_id", metavar="ID", required=False)
@click.option("--all", "username", metavar="NAME", help="Revoke all sessions of the user NAME.")
@as_json
def revoke(session_id: str | None, username: str | None, *, as_json: bool) -> None:
    """Revoke the session ID, or all sessions of a user, with their tokens.

    `hourpass users revoke-tokens` also revokes tokens of logins without a session.
    """
    if (session_id is None) == (username is None):
        raise click.UsageError("Give either the id of a session or --all NAME.")

    from app.credentials.sessions.errors import SessionNotFoundError

    async def end(services: "Services", context: "RequestContext") -> tuple[str, int]:
        if username is not None:
            user = await get_user(services, context, username)
            return user.username, await services.sessions.revoke_all(context, user.id)
        if not _ID.fullmatch(session_id or ""):
            raise SessionNotFoundError
        assert session_id
        owner_id = await services.sessions.get_owner_id(context, session_id)
        owner = (await services.users.get(context, owner_id)).username
        await services.sessions.revoke(context, owner_id, session_id)
        return owner, 1

    owner, number = run(end)
    message = f"Revoked {counted(number, 'session')} of {owner}."
    print_change({"username": owner, "revoked": number}, message, as_json=as_json)
