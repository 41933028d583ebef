"""Cancelled requests leave no lock and no connection behind."""

import asyncio

from fastapi import FastAPI
from sqlalchemy import text

from app.database.engine import Database, begin_write
from tests.support.waiting import blocking


async def test_a_cancelled_writer_blocks_no_other(app: FastAPI) -> None:
    database: Database = app.state.database

    async def write() -> None:
        async with database.session() as session:
            await begin_write(session)
            await session.execute(text("UPDATE users SET is_enabled = is_enabled"))
            await session.commit()

    async with database.session() as first:
        await begin_write(first)
        await first.execute(text("UPDATE users SET is_enabled = is_enabled"))
        async with blocking(database, 3):
            waiting = [asyncio.create_task(write()) for _ in range(3)]
        for task in waiting:
            task.cancel()
        outcomes = asyncio.gather(*waiting, return_exceptions=True)
        await first.commit()
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in await outcomes)
    async with asyncio.timeout(2):
        await asyncio.gather(*(write() for _ in range(6)))
