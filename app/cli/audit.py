"""`hourpass audit`."""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from app.background_jobs import wait_or_stop
from app.cli.operations import DATABASE_ID, check_arguments, get_user, run
from app.cli.output import Records, as_json

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from app.audit.models import Entry
    from app.context import RequestContext
    from app.services import Services

POLL_SECONDS = 1.0
# On PostgreSQL, an entry with a smaller id may be committed after one with a larger id. Entries of
# the last seconds are read again.
OVERLAP_SECONDS = 5.0

_MAX_LIMIT = 10_000
_PAGE_SIZE = 200


@click.command()
@click.option("--action", help="Such as `user.disable`, or `user.` for all that begin with it.")
@click.option("--user", "username", metavar="NAME", help="What NAME did, or what concerns NAME.")
@click.option("--user-id", type=DATABASE_ID, help="The same by id, also of a deleted user.")
@click.option("--succeeded/--refused", default=None, help="Only entries with this result.")
@click.option("--since", metavar="TIME", help="Earliest time (RFC 3339). Default time zone: UTC.")
@click.option("--until", metavar="TIME", help="Latest time, exclusive.")
@click.option(
    "--limit",
    type=click.IntRange(0, _MAX_LIMIT),
    default=50,
    show_default=True,
    help="Number of entries: the latest ones.",
)
@click.option("--follow", "-f", is_flag=True, help="Print new entries too, until Ctrl+C.")
@as_json
def audit(
    username: str | None,
    user_id: int | None,
    limit: int,
    *,
    follow: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Print the latest entries of the audit log, oldest first."""
    from app.audit.schemas import AuditQuery

    if username is not None and user_id is not None:
        raise click.UsageError("Give either --user or --user-id.")
    if follow and filters["until"] is not None:
        raise click.UsageError("--follow and --until exclude each other.")
    query = check_arguments(AuditQuery, filters)

    async def show(services: "Services", context: "RequestContext") -> None:
        from app.audit.service import concerns, find_conditions

        stopping = _interruption() if follow else None
        conditions = find_conditions(query)
        about = user_id
        if username is not None:
            about = (await get_user(services, context, username)).id
        if about is not None:
            conditions.append(concerns(about))
        printer = _Printer(as_json=as_json)
        entries = await _latest(context, conditions, limit)
        await printer.add(context, entries)
        if stopping:
            newest = await _newest_id(context)
            # With a filter, the entries may be far apart, and all between would be read again.
            floor = max(entries[0].id - 1 if entries else newest, newest - _MAX_LIMIT)
            printed = [entry.id for entry in entries]
            async for later in _follow(context, conditions, floor, printed, stopping):
                await printer.add(context, later)

    run(show)


def _interruption() -> asyncio.Event:
    """An event that the first Ctrl+C sets: a process that is interrupted while it reads from the
    database may hang. A second Ctrl+C interrupts as usual."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        interrupted.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, stop)
    return interrupted


async def _latest(
    context: "RequestContext", conditions: Sequence["ColumnElement[bool]"], limit: int
) -> list["Entry"]:
    """The oldest first."""
    from sqlalchemy import select

    from app.audit.models import Entry

    newest_first = select(Entry).where(*conditions).order_by(Entry.id.desc()).limit(limit)
    found = list(await context.session.scalars(newest_first)) if limit else []
    found.reverse()
    return found


async def _newest_id(context: "RequestContext") -> int:
    from sqlalchemy import func, select

    from app.audit.models import Entry

    return await context.session.scalar(select(func.max(Entry.id))) or 0


async def _follow(
    context: "RequestContext",
    conditions: Sequence["ColumnElement[bool]"],
    floor: int,
    printed: Sequence[int],
    stopping: asyncio.Event,
) -> AsyncIterator[list["Entry"]]:
    """Entries after `floor` that are not printed yet, as they are written."""
    from sqlalchemy import select

    from app.audit.models import Entry

    matching = select(Entry).where(*conditions).order_by(Entry.id)
    known = set(printed)
    newest: deque[tuple[float, int]] = deque()  # when it was read, and the newest id of all entries
    while True:
        # Each read is a transaction of its own: an open one would keep a connection busy.
        await context.session.commit()
        context.session.expunge_all()
        if await wait_or_stop(stopping, POLL_SECONDS):
            return
        newest.append((monotonic(), await _newest_id(context)))
        last = floor
        while page := list(
            await context.session.scalars(matching.where(Entry.id > last).limit(_PAGE_SIZE))
        ):
            if fresh := [entry for entry in page if entry.id not in known]:
                yield fresh
                known.update(entry.id for entry in fresh)
            last = page[-1].id
        while newest and newest[0][0] <= monotonic() - OVERLAP_SECONDS:
            floor = max(floor, newest.popleft()[1])
        known = {id_ for id_ in known if id_ > floor}


class _Printer:
    """Prints entries, with the names of users who still exist."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_json = as_json
        self._records = Records(
            as_json=as_json, at=20, action=24, actor=16, subject=16, result=9, address=15, details=0
        )

    async def add(self, context: "RequestContext", entries: Sequence["Entry"]) -> None:
        from app.audit.schemas import AuditEntry

        ids = {id_ for entry in entries for id_ in (entry.actor_id, entry.subject_id) if id_}
        names = {} if self._is_json else await _names(context, ids)
        for entry in entries:
            record = AuditEntry.model_validate(entry)
            self._records.add(
                record.model_dump(),
                actor=_name(names, entry.actor_id),
                subject=_name(names, entry.subject_id),
                result="succeeded" if entry.succeeded else "refused",
            )


async def _names(context: "RequestContext", ids: set[int]) -> dict[int, str]:
    from sqlalchemy import select

    from app.users.models import User

    if not ids:
        return {}
    found = await context.session.execute(select(User.id, User.username).where(User.id.in_(ids)))
    return {user.id: user.username for user in found}


def _name(names: dict[int, str], user_id: int | None) -> str:
    return "" if user_id is None else names.get(user_id, f"user {user_id}")
