"""Compiled SQL statements, shared by all engines of this process.

The service has one engine for its whole life, and compiles each statement once. Tests have an
engine each, and would compile each statement again: a third of the time of a short test.
"""

from typing import Any

from sqlalchemy import Dialect, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Mapper
from sqlalchemy.util import LRUCache

from app.database import fast_queries


class _SharedCache(LRUCache[Any, Any]):
    """The first member of a key is the dialect. Each engine has its own, and all those of a
    database are the same."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


def share() -> None:
    """With all engines that connect from now on."""
    cache = _SharedCache(5_000)

    @event.listens_for(Engine, "engine_connect")
    def use(connection: Connection) -> None:
        connection.engine._compiled_cache = cache

    # Of the statements of flush(). Each mapper would make a cache when it needs one.
    Mapper._compiled_cache = cache  # type: ignore[method-assign, assignment] # no longer made

    dialects: dict[type[Dialect], Dialect] = {}
    compile_for = fast_queries._compile

    def compile_once(
        statement: fast_queries.Statement, dialect: Dialect, given: tuple[str, ...]
    ) -> fast_queries._Compiled:
        return compile_for(statement, dialects.setdefault(type(dialect), dialect), given)

    fast_queries._compile = compile_once  # type: ignore[assignment] # has no cache_info()
