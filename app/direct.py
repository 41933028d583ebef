"""One statement by itself, straight to the driver: what is between takes several times as long as
the database, which counts where every login comes by.

Statements are SQLAlchemy's all the same, compiled once each, so they have to be constants.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import Dialect, Insert, Select, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.database import CLOCK, SHORTCUT, UtcDateTime
from app.shortcut import Shortcut

Processor = Callable[[Any], Any] | None
Statement = Select[*tuple[Any, ...]] | Insert


class _Compiled(NamedTuple):
    sql: str
    parameters: tuple[tuple[str, Processor], ...]  # in the order of the SQL
    columns: tuple[Processor, ...]


async def current_time(session: AsyncSession) -> datetime:
    """The time by the database's clock.

    What one host writes and another host compares needs one clock for all hosts: the clock of a
    host may be wrong by hours.
    """
    if clock := session.info[CLOCK]:
        return cast("datetime", clock())
    ((now,),) = await run(session, _TIME, {})
    return cast("datetime", now)


class _CurrentTime(FunctionElement[datetime]):
    """When the statement began. CURRENT_TIMESTAMP is older on PostgreSQL, where it is when the
    transaction began, and has whole seconds on SQLite."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(_CurrentTime, "postgresql")
def _on_postgresql(*_: Any, **__: Any) -> str:
    return "statement_timestamp()"


@compiles(_CurrentTime, "sqlite")
def _on_sqlite(*_: Any, **__: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


_TIME = select(_CurrentTime().label("now"))


async def run(
    session: AsyncSession, statement: Statement, parameters: Mapping[str, Any]
) -> Sequence[Any]:
    """The rows, as tuples. Part of the session's transaction or, if none is under way, of one that
    is committed at once. No parameter may stand for a list."""
    if session.in_transaction():
        result = await session.execute(statement, parameters)
        return result.all() if isinstance(statement, Select) else ()
    assert isinstance(session.bind, AsyncEngine)
    compiled = _compile(statement, session.bind.dialect, tuple(parameters))
    values = [
        process(parameters[name]) if process else parameters[name]
        for name, process in compiled.parameters
    ]
    shortcut: Shortcut = session.info[SHORTCUT]
    writes = not isinstance(statement, Select)
    rows = await shortcut.fetch(compiled.sql, values, writes=writes)
    return [
        tuple(
            process(value) if process else value
            for process, value in zip(compiled.columns, row, strict=True)
        )
        for row in rows
    ]


@lru_cache(maxsize=64)
def _compile(statement: Statement, dialect: Dialect, given: tuple[str, ...]) -> _Compiled:
    compiled = statement.compile(dialect=dialect, column_keys=given)
    names = compiled.positiontup or ()
    bound = [(name, compiled.binds[name].type.dialect_impl(dialect)) for name in names]
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    read = [column.type.dialect_impl(dialect) for column in columns]
    return _Compiled(
        str(compiled),
        tuple((name, type_.bind_processor(dialect)) for name, type_ in bound),
        tuple(type_.result_processor(dialect, None) for type_ in read),
    )
