"""Counts statements and the time that callers waited for them. Only if metrics or traces are on."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, Engine, event

_STARTED_AT = "statement_started_at"  # key of a connection's `info`


class StatementTimes:
    def __init__(self) -> None:
        self.number = 0
        self.seconds = 0.0
        # Called after each statement with its text, which has no parameters, and its seconds.
        self.on_statement: Callable[[str, float], None] | None = None

    def add(self, sql: str, started_at: float) -> None:
        """`started_at` is a time of perf_counter()."""
        seconds = perf_counter() - started_at
        self.number += 1
        self.seconds += seconds
        if self.on_statement:
            self.on_statement(sql, seconds)

    def listen(self, engine: Engine) -> None:
        event.listen(engine, "before_cursor_execute", _start)
        event.listen(engine, "after_cursor_execute", self._finish)

    def _finish(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.add(statement, connection.info.pop(_STARTED_AT))


def _start(connection: Connection, *_: Any) -> None:
    connection.info[_STARTED_AT] = perf_counter()
