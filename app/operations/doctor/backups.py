"""When the database was last backed up, as far as its audit log tells."""

from collections.abc import AsyncIterator
from datetime import timedelta

from sqlalchemy import select

from app.audit.models import Entry
from app.context import RequestContext
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System

MAX_AGE = timedelta(days=7)


async def check(system: System) -> AsyncIterator[Finding]:
    async with system.context() as context:
        yield await check_backups(context)


async def check_backups(context: RequestContext) -> Finding:
    """A warning if `hourpass backup` has not run for MAX_AGE. Other tools, which PostgreSQL has
    many of, leave no entry."""
    entries = select(Entry.at).where(Entry.action == "service.backup").order_by(Entry.id.desc())
    made_at = await context.session.scalar(entries.limit(1))
    if made_at is not None and context.now - made_at <= MAX_AGE:
        return Finding("backups", "ok", f"The last backup was made at {made_at:%F %T} UTC.")
    if made_at is None and context.session.get_bind().dialect.name == "postgresql":
        text = "`hourpass backup` has never run. Make sure that another tool backs up the database."
        return Finding("backups", "ok", text)
    last = "There was none yet" if made_at is None else f"The last one was made at {made_at:%F} UTC"
    remedy = "Run `hourpass backup FILE` every night."
    text = f"No backup in the last {MAX_AGE.days} days. {last}. {remedy}"
    return Finding("backups", "warning", text)
