"""Counts the encrypted secrets by the value of SECRET_KEY, and encrypts them with the first one.

Workers may run meanwhile. Rows that they have locked are not waited for, so that there is no
deadlock, and a row that they have changed is read again: no change is lost.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import MetaData, Row, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import begin_write
from app.security.encrypted_columns import EncryptedColumn, find_encrypted_columns
from app.security.encryption import DecryptionError, Encryptor, fingerprints
from app.settings import Settings

BATCH_SIZE = 200
PASSES = 5  # over rows that others have locked or changed
RETRY_SECONDS = 0.5

# Stands for the fingerprint of all of SECRET_KEY, which was one value with commas (Encryptor).
WHOLE_TEXT = ""

Rows = Sequence[Row[Any, Any]]


class SecretCount(NamedTuple):
    """Secrets of one kind: `by_value` has their number for the fingerprint of each value of
    SECRET_KEY, and for WHOLE_TEXT. The service does without those that cannot be decrypted if they
    are `replaceable`."""

    content: str
    by_value: Counter[str]
    plain: int
    undecryptable: int
    replaceable: int

    def plus(self, other: "SecretCount") -> "SecretCount":
        return SecretCount(
            self.content,
            self.by_value + other.by_value,
            self.plain + other.plain,
            self.undecryptable + other.undecryptable,
            self.replaceable + other.replaceable,
        )


class Encrypted(NamedTuple):
    """How many secrets were encrypted again, and how many were left, because they were locked."""

    done: int
    left: int


def list_counts(numbers: Mapping[str, int]) -> str:
    """The numbers of secrets by their content, without zeros."""
    return ", ".join(
        f"{number:,} {content.removesuffix('s') if number == 1 else content}"
        for content, number in numbers.items()
        if number
    )


async def count_rows(session: AsyncSession, metadata: MetaData) -> int:
    """The number of stored secrets. `metadata` is that of app/tables.py, here and below."""
    total = 0
    for _, column, _, _ in find_encrypted_columns(metadata):
        counted = select(func.count()).where(column.is_not(None))
        total += await session.scalar(counted) or 0
    return total


async def count_secrets(
    session: AsyncSession, settings: Settings, metadata: MetaData
) -> list[SecretCount]:
    values = (*fingerprints(settings), WHOLE_TEXT)
    found: list[SecretCount] = []
    for encrypted in find_encrypted_columns(metadata):
        encryptor = Encryptor(settings, encrypted.content)
        by_value: Counter[str] = Counter()
        plain = failed = 0
        async for rows in _batches(session, encrypted):
            for _, secret in rows:
                try:
                    index = encryptor.find_key(secret)
                except DecryptionError:
                    failed += 1
                    continue
                if index is None:
                    plain += 1
                else:
                    by_value[values[index]] += 1
        lost = (0, failed) if encrypted.is_replaceable else (failed, 0)
        count = SecretCount(encrypted.content, by_value, plain, *lost)
        if found and found[-1].content == count.content:  # a kind may have several columns
            count = count.plus(found.pop())
        found.append(count)
    return found


async def encrypt_with_first(
    session: AsyncSession,
    settings: Settings,
    metadata: MetaData,
    report_progress: Callable[[int], None],
) -> Encrypted:
    """Encrypt all secrets with the first value of SECRET_KEY, in small transactions. After an
    interruption, the next call continues."""
    done = left = 0
    for encrypted in find_encrypted_columns(metadata):
        encryptor = Encryptor(settings, encrypted.content)
        for attempt in range(PASSES):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS)
            left_here = 0
            async for rows in _batches(session, encrypted):
                changes = _changes(encryptor, rows)
                written = await _write(session, encrypted, changes) if changes else 0
                done += written
                left_here += len(changes) - written
                if not attempt:
                    report_progress(len(rows))
            if not left_here:
                break
        left += left_here
    return Encrypted(done, left)


class _Change(NamedTuple):
    key: Any
    old: str
    new: str


def _changes(encryptor: Encryptor, rows: Rows) -> dict[Any, _Change]:
    found = {}
    for key, secret in rows:
        try:
            new = encryptor.encrypt_again(secret)
        except DecryptionError:
            continue  # counted by count_secrets()
        if new is not None:
            found[key] = _Change(key, secret, new)
    return found


async def _batches(session: AsyncSession, encrypted: EncryptedColumn) -> AsyncIterator[Rows]:
    """The keys and secrets, in the order of the keys. No transaction is open in between."""
    _, column, key, _ = encrypted
    query = select(key, column).where(column.is_not(None)).order_by(key).limit(BATCH_SIZE)
    rows = (await session.execute(query)).all()
    while rows:
        await session.commit()
        yield rows
        rows = (await session.execute(query.where(key > rows[-1][0]))).all()
    await session.commit()


async def _write(
    session: AsyncSession, encrypted: EncryptedColumn, changes: dict[Any, _Change]
) -> int:
    """Returns how many rows were neither locked nor changed by others."""
    _, column, key, _ = encrypted
    begun_at = monotonic()
    await begin_write(session)
    current = select(key, column).where(key.in_(changes)).with_for_update(skip_locked=True)
    unchanged = [
        {"of_row": row_key, "encrypted": changes[row_key].new}
        for row_key, secret in await session.execute(current)
        if secret == changes[row_key].old
    ]
    if unchanged:
        row = update(column.table).where(key == bindparam("of_row"))
        connection = await session.connection()
        await connection.execute(row.values({column: bindparam("encrypted")}), unchanged)
    await session.commit()
    await asyncio.sleep(monotonic() - begun_at)  # as long for the others
    return len(unchanged)
