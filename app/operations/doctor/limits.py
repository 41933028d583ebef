"""Whether the open-files limit allows as many connections as MAX_CONNECTIONS says."""

from collections.abc import AsyncIterator

from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.server.connections import DEFAULT_MAX_CONNECTIONS, possible_connections
from app.server.open_files import most_open_files
from app.settings import Settings

_SUBJECT = "connections"
_FEW = 500


async def check(system: System) -> AsyncIterator[Finding]:
    yield judge(system.settings, most_open_files())


def judge(settings: Settings, files: int) -> Finding:
    """`files` is the hard limit, to which the service raises its own."""
    possible = possible_connections(settings, files)
    wanted = settings.max_connections
    allowed = min(possible, wanted or DEFAULT_MAX_CONNECTIONS)
    text = f"The limit of {files:,} open files allows {allowed:,} connections per worker."
    remedy = "Raise the limit, for example with LimitNOFILE=65536 in the systemd unit."
    if wanted and wanted > possible:
        text = f"MAX_CONNECTIONS is {wanted:,}, but {files:,} open files allow {possible:,}."
        return Finding(_SUBJECT, "warning", f"{text} {remedy}")
    if not wanted and possible < _FEW:
        return Finding(_SUBJECT, "warning", f"{text} {remedy}")
    return Finding(_SUBJECT, "ok", text)
