"""Whether the clocks of this host and of the database agree."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.audit.models import Entry
from app.database.fast_queries import current_time
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.tokens.signing_keys.keys import CLOCK_SKEW

NOTABLE = timedelta(seconds=5)
_REMEDY = "Synchronize the clocks, for example with chrony or systemd-timesyncd."


async def check(system: System) -> AsyncIterator[Finding]:
    async with system.context() as context:
        before = datetime.now(UTC)
        of_database = await current_time(context.session)
        here = before + (datetime.now(UTC) - before) / 2
        newest = await context.session.scalar(select(func.max(Entry.at)))
    yield compare(here, of_database)
    if newest and newest > here + CLOCK_SKEW:
        text = (
            f"The audit log has an entry of {newest:%F %T} UTC, which is still to come. A clock "
            "is or was wrong."
        )
        yield Finding("clock", "warning", text)


def compare(here: datetime, of_database: datetime) -> Finding:
    difference = abs(here - of_database)
    seconds = difference.total_seconds()
    direction = "behind" if here < of_database else "ahead of"
    text = f"This host's clock is {seconds:.1f} s {direction} that of the database."
    if difference > CLOCK_SKEW:
        return Finding("clock", "error", f"{text} {_REMEDY}")
    if difference > NOTABLE:
        return Finding("clock", "warning", f"{text} {_REMEDY}")
    return Finding("clock", "ok", text)
