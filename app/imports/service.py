"""Checks imported users against the rules of this service, and writes them in batches.

Each batch is a transaction. An import that was interrupted continues when it is run again: users
whose names exist stay as they are.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic_core import to_json
from sqlalchemy import Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from app.audit.models import Entry
from app.context import RequestContext
from app.credentials.second_factors.encryption import encryptor_for
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import begin_write
from app.database.timelines import require_unused_ids
from app.errors import InvalidRequestError
from app.events import Events
from app.imports.errors import LeftOutError, Reason
from app.imports.reader import Reader
from app.imports.records import ImportedUser, Options
from app.imports.report import HashKind, LeftOut, Report
from app.security.hash_costs import MAX_BYTES, cost_of
from app.security.passwords import Password, Passwords
from app.settings import Settings
from app.tokens.scopes import summarize
from app.tokens.token_size import require_room
from app.users.login_account import normalize_username
from app.users.models import (
    UNUSABLE_PASSWORD,
    User,
    new_token_version,
    normalize_email,
)
from app.users.schemas import (
    SERVICE_PREFIX,
    Email,
    Scopes,
    Username,
    has_service_prefix,
)
from hourpass.scopes import scope_string

ACTION = "user.import"

_MAX_HASH_LENGTH = 255  # of the column
_MAX_ROLES_LENGTH = 65_536  # of one user. Those of a batch are in memory
_CACHED_SCOPES = 1_000
_MIN_DIGEST_LENGTH = 22  # in base64: 16 bytes

_USERNAME: TypeAdapter[str] = TypeAdapter(Username)
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_PASSWORD: TypeAdapter[Any] = TypeAdapter(Password)
_SCOPES: TypeAdapter[list[str]] = TypeAdapter(Scopes)

_ENTRIES = insert(cast("Table", Entry.__table__))
_SECOND_FACTORS = insert(cast("Table", SecondFactor.__table__))


class _NewUser(NamedTuple):
    """`values` are columns of the table. `imported` has what is stored elsewhere, and `password` is
    the one to hash, if there is any."""

    imported: ImportedUser
    values: dict[str, Any]
    scopes: frozenset[str]
    password: SecretStr | None


class Importer:
    def __init__(
        self, passwords: Passwords, events: Events, settings: Settings, options: Options
    ) -> None:
        self._passwords = passwords
        self._events = events
        self._options = options
        self._encryptor = encryptor_for(settings)

        @lru_cache(_CACHED_SCOPES)
        def check_room(scopes: str) -> None:
            require_room(settings, scopes.split())

        self._check_room = check_room

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
        """Raises ImportFileError, if the file changes meanwhile."""
        report = Report()
        origin = {"source": source, "import": secrets.token_hex(4)}
        seen: set[str] = set()
        users: list[_NewUser] = []
        number = 0
        for number, record in enumerate(reader.records(), 1):
            try:
                user = self._check(context, reader.user(record))
                _require_first(user.values["username_folded"], seen)
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

    def _check(self, context: RequestContext, imported: ImportedUser) -> _NewUser:
        """Raises LeftOutError."""
        username = _check_username(imported)
        email = _valid(_EMAIL, imported.email, Reason.EMAIL) if imported.email else None
        scopes = self._check_scopes(imported)
        if imported.second_factor_fault and not self._options.drop_second_factors:
            raise imported.second_factor_fault
        password_hash, password = self._check_password(imported)
        values = {
            "username": username,
            "username_folded": normalize_username(username),
            "email": email,
            "email_folded": normalize_email(email) if email else None,
            "email_verified_at": context.now if email and imported.email_verified else None,
            "password_hash": password_hash,
            "is_enabled": imported.is_enabled,
            "is_admin": imported.is_admin or "admin" in scopes,
            "scopes": scope_string(scopes - {"admin"}),
            "token_epoch": new_token_version(),
            "created_at": min(imported.created_at or context.now, context.now),
        }
        return _NewUser(imported, values, scopes, password)

    def _check_scopes(self, imported: ImportedUser) -> frozenset[str]:
        if sum(map(len, imported.roles)) > _MAX_ROLES_LENGTH:
            detail = f"The roles have more than {_MAX_ROLES_LENGTH:,} characters"
            raise LeftOutError(Reason.RECORD, detail)
        scopes = set(imported.scopes)
        for role in imported.roles:
            scopes |= self._options.scopes.get(role, frozenset())
        granted = scopes | ({"admin"} if imported.is_admin else set())
        _valid(_SCOPES, sorted(scopes - {"admin"}), Reason.SCOPES)
        try:
            self._check_room(scope_string(scopes - {"admin"}))
        except InvalidRequestError as error:
            raise LeftOutError(Reason.SCOPES, str(error)) from None
        return frozenset(granted)

    def _check_password(self, imported: ImportedUser) -> tuple[str, SecretStr | None]:
        """The hash to store, and the password to hash instead. Raises LeftOutError."""
        try:
            if imported.password_fault:
                raise imported.password_fault
            if imported.password is not None:
                return UNUSABLE_PASSWORD, _valid(_PASSWORD, imported.password, Reason.PASSWORD)
            if imported.password_hash is None:
                return UNUSABLE_PASSWORD, None
            self._check_hash(imported.password_hash)
        except LeftOutError:
            if not self._options.drop_passwords:
                raise
            return UNUSABLE_PASSWORD, None
        return imported.password_hash, None

    def _check_hash(self, password_hash: str) -> None:
        """Never computes it: its parameters could cost hours."""
        cost = cost_of(password_hash) if len(password_hash) <= _MAX_HASH_LENGTH else None
        # PostgreSQL refuses a NUL even in a salt.
        if cost is None or not (password_hash.isascii() and password_hash.isprintable()):
            raise LeftOutError(Reason.HASH, "docs/import.md lists the supported kinds")
        if cost.memory > MAX_BYTES:
            needed = f"It needs {cost.memory / 2**20:,.0f} MiB of memory"
            raise LeftOutError(
                Reason.COST, f"{needed}, and at most {MAX_BYTES // 2**20} are allowed"
            )
        if (seconds := cost.seconds()) > self._options.max_hash_seconds:
            bound = f"at most {self._options.max_hash_seconds:g} are allowed"
            raise LeftOutError(Reason.COST, f"It takes {seconds:,.1f} seconds, and {bound}")
        if not self._passwords.can_verify(password_hash):
            raise LeftOutError(Reason.HASH, "It is damaged")
        # Other passwords would match a part of a digest.
        if len(password_hash.rpartition("$")[2].rstrip("=")) < _MIN_DIGEST_LENGTH:
            raise LeftOutError(Reason.HASH, "It is shorter than 16 bytes")

    async def _add(
        self,
        context: RequestContext,
        users: Sequence[_NewUser],
        report: Report,
        origin: dict[str, str],
        *,
        dry_run: bool,
    ) -> None:
        """A batch, in one transaction."""
        if not users:
            return
        existing = await _existing(context, [user.values["username_folded"] for user in users])
        new = [user for user in users if user.values["username_folded"] not in existing]
        if not dry_run:
            await self._hash_passwords(new)
            added = await self._insert(context, new, origin)
            new = [user for user in new if user.values["username_folded"] in added]
        report.existing += len(users) - len(new)
        for user in new:
            self._count(user, report)

    async def _hash_passwords(self, users: Sequence[_NewUser]) -> None:
        waiting = iter([(user.values, user.password) for user in users if user.password])

        async def hash_next() -> None:
            for values, password in waiting:
                hashed = await self._passwords.hash(password.get_secret_value())
                values["password_hash"] = hashed

        async with asyncio.TaskGroup() as group:
            for _ in range(self._passwords.threads):
                group.create_task(hash_next())

    async def _insert(
        self, context: RequestContext, users: Sequence[_NewUser], origin: dict[str, str]
    ) -> dict[str, int]:
        """The ids of the users that were added, by their normalized names. Others were registered a
        moment ago."""
        if not users:
            return {}
        session = context.session
        await begin_write(session)
        await require_unused_ids(session)
        table = cast("Table", User.__table__)
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        statement = (sqlite.insert if is_sqlite else postgresql.insert)(table)
        rows = await session.execute(
            statement.on_conflict_do_nothing(index_elements=["username_folded"]).returning(
                table.c.username_folded, table.c.id
            ),
            [user.values for user in users],
        )
        ids: dict[str, int] = {row[0]: row[1] for row in rows}
        added = [
            (ids[user.values["username_folded"]], user)
            for user in users
            if user.values["username_folded"] in ids
        ]
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
            "secret": self._encryptor.encrypt(_base32(secret)),
            "created_at": context.now,
            "confirmed_at": context.now,
            "last_step": 0,
            "failures": 0,
            "forgiven_at": context.now,
        }

    def _count(self, user: _NewUser, report: Report) -> None:
        imported, password_hash = user.imported, user.values["password_hash"]
        report.imported += 1
        report.disabled += not imported.is_enabled
        report.administrators += user.values["is_admin"]
        report.second_factors += imported.totp_secret is not None
        report.dropped_second_factors += imported.second_factor_fault is not None
        had_one = imported.password_hash or imported.password or imported.password_fault
        report.count_roles({*imported.roles} - self._options.scopes.keys())
        if user.password:
            report.to_hash += 1
        elif password_hash == UNUSABLE_PASSWORD:
            report.without_password += 1
            report.dropped_passwords += bool(had_one)
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


def _check_username(imported: ImportedUser) -> str:
    """The e-mail address, if there is no username. Raises LeftOutError."""
    given = imported.username or imported.email
    if given is None:
        raise LeftOutError(Reason.USERNAME, "There is no username and no e-mail address")
    username: str = _valid(_USERNAME, given, Reason.USERNAME)
    if has_service_prefix(username):
        rule = f"Must not begin with {SERVICE_PREFIX}, as names of service accounts do"
        raise LeftOutError(Reason.USERNAME, rule)
    return username


def _require_first(name: str, seen: set[str]) -> None:
    """Raises LeftOutError."""
    if name in seen:
        raise LeftOutError(Reason.DUPLICATE, "An earlier record has it")
    seen.add(name)


def _valid(adapter: TypeAdapter[Any], value: Any, reason: Reason) -> Any:
    """Raises LeftOutError."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise LeftOutError(reason, error.errors(include_input=False)[0]["msg"]) from None


async def _existing(context: RequestContext, names: Collection[str]) -> set[str]:
    query = select(User.username_folded).where(User.username_folded.in_(names))
    found = set(await context.session.scalars(query))
    await context.session.commit()
    return found


def _entry(
    context: RequestContext, user_id: int, user: _NewUser, origin: dict[str, str]
) -> dict[str, Any]:
    """Of the audit log. As its subscriber writes it, but many at once."""
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


def _base32(secret: bytes) -> str:
    return base64.b32encode(secret).decode()
