"""Works behind poolers that give each transaction another connection of the server, such as
PgBouncer with `pool_mode = transaction`: nothing may outlast a transaction."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from app.database.postgres_driver import SET_TIMEOUTS, PostgresConnector

_WITHOUT_PREPARED_STATEMENTS = {
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,  # the unnamed one, which each statement replaces
}


def support(engine: AsyncEngine, connector: PostgresConnector) -> None:
    """Has no effect without a pooler."""

    def before_connecting(
        _dialect: object, _record: object, _arguments: object, options: dict[str, Any]
    ) -> None:
        if await_only(connector.has_pooler()):
            options.update(_WITHOUT_PREPARED_STATEMENTS)

    def set_timeouts(connection: Connection) -> None:
        if connector.sets_timeouts_per_transaction:
            connection.execute(SET_TIMEOUTS)

    event.listen(engine.sync_engine, "do_connect", before_connecting)
    event.listen(engine.sync_engine, "begin", set_timeouts)
