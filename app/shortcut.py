"""Single statements past SQLAlchemy: over one connection of the engine that is kept beside its pool
and, on SQLite, over none at all for what only reads.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.sqlite import Reader
from app.turns import give_way


class Shortcut:
    def __init__(self, engine: AsyncEngine, reader: Reader | None) -> None:
        self._engine = engine
        self._reader = reader
        self._driver: Any = None
        self._taken = asyncio.Lock()

    async def fetch(self, sql: str, values: Sequence[Any], *, writes: bool) -> list[Any]:
        """All rows, of a transaction that is committed at once. Raises what SQLAlchemy and the
        driver do."""
        rows = self._reader.fetch(sql, values) if self._reader and not writes else None
        if rows is None:
            rows = await self._ask(sql, values)
        await give_way()
        return rows

    async def close(self) -> None:
        if self._reader:
            self._reader.close()
        if self._driver:
            await self._driver.close()
            self._driver = None

    async def _ask(self, sql: str, values: Sequence[Any]) -> list[Any]:
        # A SQLite file has room for one writer at a time, PostgreSQL for many.
        if self._taken.locked() and not self._reader:
            async with self._engine.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                return list(await driver.fetch(sql, *values))
        async with self._taken:
            if self._driver is None or self._driver.is_closed():
                proxy = await self._engine.raw_connection()
                self._driver = proxy.driver_connection
                proxy.detach()
            return list(await self._driver.fetch(sql, *values))
