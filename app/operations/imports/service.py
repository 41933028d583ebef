"""Writes imported users in batches, each of which is a transaction.

An import that was interrupted continues when it is run again: users whose names exist stay as they
are.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from pydantic_core import to_json
from sqlalchemy import Table, insert, select

from app.audit.models import Entry
from app.context import RequestContext
from app.credentials.second_factors.encryption import encryptor_for
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import begin_write
from app.database.timelines import require_unused_ids
from app.database.upserts import upsert
from app.events import Events
from app.operations.imports.errors import LeftOutError, Reason
from app.operations.imports.reader import Reader
from app.operations.imports.records import Options
from app.operations.imports.report import HashKind, LeftOut, Report
from app.operations.imports.rules import NewUser, Rules
from app.security.hash_costs import cost_of
from app.security.passwords import Passwords
from app.settings import Settings
from app.tokens.scopes import summarize
from app.users.models import UNUSABLE_PASSWORD, User

ACTION = "user.import"

_ENTRIES = insert(cast("Table", Entry.__table__))
_SECOND_FACTORS = insert(cast("Table", SecondFactor.__table__))


class Importer:
    def __init__(
        self, passwords: Passwords, events: Events, settings: Settings, options: Options
    ) -> None:
        self._passwords = passwords
        self._events = events
        self._options = options
        self._encryptor = encryptor_for(settings)
        self._rules = Rules(passwords, settings, options)

    async def run(  # noqa: PLR0913 - what a command shows meanwhile
        self,
        context: RequestContext,
        reader: Reader,
        *,
        source: str,
        dry_run: bool,
        on_left_out: Callable[[LeftOut], None],
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Report:
        """Raises ImportFileError if the file changes during the import."""
        report = Report()
        origin = {"source": source, "import": secrets.token_hex(4)}
        seen: set[str] = set()
        users: list[NewUser] = []
        number = 0
        for number, record in enumerate(reader.records(), 1):
            try:
                user = self._rules.check(reader.user(record), context.now)
                _require_first(user.normalized_name, seen)
                users.append(user)
            except LeftOutError as error:
                report.left_out[error.reason] += 1
                on_left_out(LeftOut(number, reader.name(record), error.reason, error.detail))
            if number % reader.batch == 0:
                await self._add(context, users, report, origin, dry_run=dry_run)
                users = []
                on_progress(reader.batch)
        await self._add(context, users, report, origin, dry_run=dry_run)
        on_progress(number % reader.batch)
        if not dry_run:
            await self._record(context, report, origin)
        return report

    async def _add(
        self,
        context: RequestContext,
        users: Sequence[NewUser],
        report: Report,
        origin: dict[str, str],
        *,
        dry_run: bool,
    ) -> None:
        """Add a batch, in one transaction."""
        if not users:
            return
        existing = await _find_existing(context, [user.normalized_name for user in users])
        new = [user for user in users if user.normalized_name not in existing]
        if not dry_run:
            await self._hash_passwords(new)
            added = await self._insert(context, new, origin)
            new = [user for user in new if user.normalized_name in added]
        report.existing += len(users) - len(new)
        for user in new:
            self._count(user, report)

    async def _hash_passwords(self, users: Sequence[NewUser]) -> None:
        waiting = iter([(user.values, user.password) for user in users if user.password])

        async def hash_next() -> None:
            for values, password in waiting:
                hashed = await self._passwords.hash(password.get_secret_value())
                values["password_hash"] = hashed

        async with asyncio.TaskGroup() as group:
            for _ in range(self._passwords.threads):
                group.create_task(hash_next())

    async def _insert(
        self, context: RequestContext, users: Sequence[NewUser], origin: dict[str, str]
    ) -> dict[str, int]:
        """Insert users whose names nobody has registered meanwhile. Returns their ids by their
        normalized names."""
        if not users:
            return {}
        session = context.session
        await begin_write(session)
        await require_unused_ids(session)
        table = cast("Table", User.__table__)
        rows = await session.execute(
            upsert(session, table)
            .on_conflict_do_nothing(index_elements=["username_folded"])
            .returning(table.c.username_folded, table.c.id),
            [user.values for user in users],
        )
        ids: dict[str, int] = {row[0]: row[1] for row in rows}
        added = [(ids[user.normalized_name], user) for user in users if user.normalized_name in ids]
        if factors := [
            self._second_factor(context, id_, user.imported.totp_secret)
            for id_, user in added
            if user.imported.totp_secret
        ]:
            await session.execute(_SECOND_FACTORS, factors)
        if added:
            await session.execute(
                _ENTRIES, [_entry(context, id_, user, origin) for id_, user in added]
            )
        await session.commit()
        return ids

    def _second_factor(
        self, context: RequestContext, user_id: int, secret: bytes
    ) -> dict[str, Any]:
        return {
            "user_id": user_id,
            "secret": self._encryptor.encrypt(base64.b32encode(secret).decode()),
            "created_at": context.now,
            "confirmed_at": context.now,
            "last_step": 0,
            "failures": 0,
            "forgiven_at": context.now,
        }

    def _count(self, user: NewUser, report: Report) -> None:
        imported, password_hash = user.imported, user.values["password_hash"]
        report.imported += 1
        report.disabled += not imported.is_enabled
        report.administrators += user.values["is_admin"]
        report.second_factors += imported.totp_secret is not None
        report.dropped_second_factors += imported.second_factor_fault is not None
        had_password = imported.password_hash or imported.password or imported.password_fault
        report.count_roles({*imported.roles} - self._options.scopes.keys())
        if user.password:
            report.to_hash += 1
        elif password_hash == UNUSABLE_PASSWORD:
            report.without_password += 1
            report.dropped_passwords += bool(had_password)
        else:
            cost = cost_of(password_hash)
            assert cost
            report.hashes.setdefault(cost.algorithm, HashKind()).add(cost.seconds())

    async def _record(
        self, context: RequestContext, report: Report, origin: dict[str, str]
    ) -> None:
        numbers = {
            "imported": str(report.imported),
            "existing": str(report.existing),
            "left_out": str(report.left_out.total()),
        }
        await begin_write(context.session)
        details: dict[str, Any] = {**origin, **numbers}
        await self._events.publish(context, "import.run", None, **details)
        await context.session.commit()


def _require_first(name: str, seen: set[str]) -> None:
    """Raises LeftOutError."""
    if name in seen:
        raise LeftOutError(Reason.DUPLICATE, "An earlier record has it")
    seen.add(name)


async def _find_existing(context: RequestContext, names: Collection[str]) -> set[str]:
    query = select(User.username_folded).where(User.username_folded.in_(names))
    found = set(await context.session.scalars(query))
    await context.session.commit()
    return found


def _entry(
    context: RequestContext, user_id: int, user: NewUser, origin: dict[str, str]
) -> dict[str, Any]:
    """An entry of the audit log, as its subscriber writes it. Here, many are inserted at once."""
    granted = {"to": summarize(user.scopes)} if user.scopes else {}
    return {
        "at": context.now,
        "action": ACTION,
        "actor_id": context.user_id,
        "subject_id": user_id,
        "succeeded": True,
        "address": context.ip_address,
        "user_agent": context.user_agent,
        "request_id": context.request_id,
        "details": to_json({**origin, **granted}).decode(),
    }
