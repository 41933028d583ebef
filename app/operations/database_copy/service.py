"""Copies all rows from one database to another, and compares them before the commit."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Table

from app.database import outages, sequences
from app.errors import StartupError
from app.operations.database_copy.errors import CopyError
from app.operations.database_copy.rows import Checksum, read_pages
from app.operations.database_copy.source import Source, open_source
from app.operations.database_copy.tables import copied_tables
from app.operations.database_copy.target import Target, open_target
from app.settings import Settings


class CopiedTable(NamedTuple):
    name: str
    rows: int
    checksum: str  # of the rows of the source and of the target


# Called with the steps that are done, and with all of them. Each row is a step to copy it, and one
# to compare it.
Progress = Callable[[int, int], None]


async def copy_database(
    source_settings: Settings,
    target_settings: Settings,
    *,
    is_rehearsal: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> list[CopiedTable]:
    """Everything keeps its id, version, name and position, so that tokens, sessions, keys and the
    cursors of guards stay valid.

    Raises CopyError and SchemaError. The target is then as empty as before.
    """
    if _is_same(source_settings, target_settings):
        raise CopyError("The target is the source. Name another database.")
    async with (
        _naming("source"),
        open_source(source_settings, is_rehearsal=is_rehearsal) as source,
        _naming("target"),
        open_target(target_settings) as target,
    ):
        return await _Copy(source, target, progress).run()


class _Copy:
    def __init__(self, source: Source, target: Target, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._done = 0
        self._total = 0

    async def run(self) -> list[CopiedTable]:
        async with _naming("source"):
            self._total = 2 * await self._source.count_rows()
        checksums = {table.name: await self._copy(table) for table in copied_tables()}
        compared = [await self._compare(table, checksums[table.name]) for table in copied_tables()]
        await self._target.analyze()
        async with _naming("source"):
            await self._source.require_lock()
        return compared

    async def _copy(self, table: Table) -> Checksum:
        checksum = Checksum()
        async with _naming("source"):
            async for page in read_pages(self._source.connection, table):
                async with _naming("target"):
                    await self._target.write(table, page, checksum.rows + 1)
                checksum.add(page)
                self._advance(len(page))
            if table.name in sequences.tables_with_identity():
                last_id = await self._source.last_id(table)
                async with _naming("target"):
                    await sequences.skip_to(self._target.connection, table.name, last_id)
        return checksum

    async def _compare(self, table: Table, expected: Checksum) -> CopiedTable:
        rows = 0
        async for found in self._target.read_checksums(table):
            self._advance(found.rows - rows)
            rows = found.rows
        checksum = found.hexdigest()
        if (rows, checksum) != (expected.rows, expected.hexdigest()):
            raise CopyError(
                f"The table {table.name} is not the same in the target: it has {rows:,} rows, and "
                f"the source has {expected.rows:,}. Nothing was copied. Please report this."
            )
        return CopiedTable(table.name, rows, checksum)

    def _advance(self, steps: int) -> None:
        if steps:
            self._done += steps
            self._progress(self._done, self._total)


@asynccontextmanager
async def _naming(side: str) -> AsyncIterator[None]:
    """Errors of a database say which of the two it is."""
    try:
        yield
    except CopyError:
        raise
    except StartupError as error:
        raise CopyError(f"The {side}: {error}") from error
    except Exception as error:
        if not outages.is_outage(error):
            raise
        names = [table.name for table in copied_tables()]
        raise CopyError(f"The {side} cannot be used: {outages.describe(error, names)}.") from error


def _is_same(source: Settings, target: Settings) -> bool:
    """Another spelling of the same URL is noticed later: the target is not empty."""
    if source.database_url == target.database_url:
        return True
    paths = [Path(url.partition(":///")[2]) for url in (source.database_url, target.database_url)]
    are_files = source.database_url.startswith("sqlite") == target.database_url.startswith("sqlite")
    return are_files and all(map(Path.exists, paths)) and paths[0].samefile(paths[1])
