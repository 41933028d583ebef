"""When the database was last backed up, as far as its audit log tells."""

from datetime import timedelta

from sqlalchemy import select

from app.audit.models import Entry
from app.context import RequestContext
from app.doctor.finding import Finding

MAX_AGE = timedelta(days=7)


async def check_backups(context: RequestContext) -> Finding:
    """A warning if `hourpass backup` has not run for MAX_AGE. Other tools leave no entry."""
    entries = select(Entry.at).where(Entry.action == "service.backup").order_by(Entry.id.desc())
    made_at = await context.session.scalar(entries.limit(1))
    if made_at is not None and context.now - made_at <= MAX_AGE:
        return Finding("backups", "ok", f"The last backup was made at {made_at:%F %T} UTC.")
    last = "There was none yet" if made_at is None else f"The last one was made at {made_at:%F} UTC"
    return Finding(
        "backups",
        "warning",
        f"No backup in the last {MAX_AGE.days} days. {last}. Run `hourpass backup FILE` every "
        "night, unless another tool backs up the database.",
    )
