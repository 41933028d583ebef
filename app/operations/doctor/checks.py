"""The list of all checks, in the order in which they run and are printed.

A check is an asynchronous generator of findings. It takes what it needs from the System, which
raises NotCheckedError if that cannot be used. To add one, write `check` in a module of its own, and
add a line here.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from app.operations.doctor import (
    administrators,
    backups,
    clock,
    database,
    disk,
    files,
    limits,
    mail,
    processes,
    proxy,
    secrets,
    settings,
    signing_keys,
    webhooks,
)
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import NotCheckedError, System

Check = Callable[[System], AsyncIterator[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", settings.check),
    ("files", files.check),
    ("database", database.check),
    ("processes", processes.check),
    ("clock", clock.check),
    ("disk", disk.check),
    ("signing keys", signing_keys.check),
    ("secrets", secrets.check),
    ("administrators", administrators.check),
    ("backups", backups.check),
    ("mail", mail.check),
    ("webhooks", webhooks.check),
    ("proxy", proxy.check),
    ("connections", limits.check),
)
CHECK_SECONDS = 30.0


async def run_checks() -> AsyncGenerator[list[Finding]]:
    """The findings of one check after the other."""
    system = System()
    try:
        for subject, check in CHECKS:
            yield await run_check(system, subject, check)
    finally:
        await system.close()


async def run_check(system: System, subject: str, check: Check) -> list[Finding]:
    """Never raises: the other checks run as well."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            async for finding in check(system):
                found.append(finding)  # noqa: PERF401 - what was found before an error is kept
    except NotCheckedError as error:
        found.append(Finding(subject, "warning", f"Not checked: {error}."))
    except TimeoutError:
        found.append(Finding(subject, "error", f"No result within {CHECK_SECONDS:.0f} s."))
    except Exception as error:  # noqa: BLE001 - whatever is broken, the others are checked
        # Only the kind: its text may quote a value.
        found.append(Finding(subject, "error", f"The check failed with {type(error).__name__}."))
    return found
