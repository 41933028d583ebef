"""Checks of SECRET_KEY: what it encrypts, and which workers have it."""

from collections.abc import AsyncIterator
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.maintenance.secret_rotation.encrypted_rows import list_counts
from app.maintenance.secret_rotation.service import Rotation, Step, read_rotation
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.settings import Settings
from app.tables import metadata

_ROTATE = "Run `hourpass secrets rotate`, which says what to do."


async def check(system: System) -> AsyncIterator[Finding]:
    async with system.context() as context:
        findings = await check_secrets(context.session, system.settings)
    for finding in findings:
        yield finding


async def check_secrets(session: AsyncSession, settings: Settings) -> list[Finding]:
    """Reads and decrypts all secrets."""
    rotation = await read_rotation(session, settings, metadata)
    if rotation.undecryptable:
        kinds = list_counts({each.content: each.undecryptable for each in rotation.undecryptable})
        advice = "Add the value that does, after a comma." if rotation.values else "Set it."
        return [_finding("error", f"SECRET_KEY does not decrypt {kinds}. {advice}")]
    if not rotation.values:
        return []  # settings.py says that it is not set
    findings = [*_workers(rotation), *_secrets(rotation)]
    return findings or [_finding("ok", "All of them are encrypted with SECRET_KEY.")]


def _workers(rotation: Rotation) -> list[Finding]:
    if rotation.lacking:
        names = ", ".join(worker.name for worker in rotation.lacking)
        text = f"These workers lack the value {rotation.newest} of SECRET_KEY: {names}. {_ROTATE}"
        return [_finding("error", text)]
    if rotation.step in (Step.ADD, Step.MAKE_FIRST, Step.REMOVE):
        text = f"A rotation of SECRET_KEY is under way, step {rotation.step} is next. {_ROTATE}"
        return [_finding("warning", text)]
    return []


def _secrets(rotation: Rotation) -> list[Finding]:
    newest = rotation.newest
    plain = list_counts({each.content: each.plain for each in rotation.secrets})
    others = list_counts(
        {each.content: each.by_value.total() - each.by_value[newest] for each in rotation.secrets}
    )
    findings = []
    if plain:
        findings.append(_finding("warning", f"Not encrypted: {plain}. {_ROTATE}"))
    if others:
        text = f"Not encrypted with the value {newest} of SECRET_KEY: {others}. {_ROTATE}"
        findings.append(_finding("warning", text))
    return findings


def _finding(state: Literal["ok", "warning", "error"], text: str) -> Finding:
    return Finding("secrets", state, text)
