"""The table in which Alembic keeps the revision of our schema, and by which we know our databases.

Every application with Alembic has a table `alembic_version`, so ours has another name. Databases
from before version 0.2 have `alembic_version` until their next migration (decision 23).
"""

from collections.abc import Sequence

from sqlalchemy import Inspector, inspect, text
from sqlalchemy.engine import Connection

from app.database.base import Base
from app.errors import StartupError

VERSION_TABLE = "hourpass_version"
FORMER_VERSION_TABLE = "alembic_version"

# What the first revision made, and no later one removed. Many applications have a table `users`.
_OUR_COLUMNS = {
    "users": {"id", "username_folded", "password_hash", "token_epoch", "is_enabled", "is_admin"},
    "signing_keys": {"generation", "kid", "algorithm", "private_key"},
}
_MAX_NAMED = 3  # tables in an error


class SchemaError(StartupError):
    """The database cannot be reached, or its schema is not the one this code was written for."""


def read_revision(connection: Connection) -> str | None:
    """The revision of our tables, or None if the database has none of them. Only reads.

    Raises SchemaError if another application has a table that we need, or if search_path begins
    with a schema that cannot be used.
    """
    inspector = inspect(connection)
    schema = _current_schema(connection)
    revision: str | None = None
    # Tried first, because each start and each command does this. The names of all tables take
    # several times as long.
    if inspector.has_table(VERSION_TABLE, schema):
        revision = _read(connection, VERSION_TABLE)
    if revision is not None:
        return revision
    tables = {*inspector.get_table_names(schema), *inspector.get_view_names(schema)}
    if name := _version_table(inspector, schema, tables):
        revision = _read(connection, name)
    if revision is None and (foreign := sorted(tables & Base.metadata.tables.keys())):
        raise foreign_tables_error(connection.dialect.name, foreign)
    return revision


def adopt(connection: Connection) -> None:
    """Rename a version table with the former name. Part of the migration's transaction.

    Raises SchemaError as read_revision() does.
    """
    if connection.dialect.name == "postgresql":
        # New tables go to the first schema. Without this, Alembic would also find the version
        # table of another Hourpass in one of the others.
        connection.execute(
            text("SELECT set_config('search_path', quote_ident(current_schema()), true)")
        )
    read_revision(connection)
    inspector = inspect(connection)
    schema = _current_schema(connection)
    tables = set(inspector.get_table_names(schema))
    if _version_table(inspector, schema, tables) != FORMER_VERSION_TABLE:
        return
    connection.execute(text(f"ALTER TABLE {FORMER_VERSION_TABLE} RENAME TO {VERSION_TABLE}"))
    if connection.dialect.name == "postgresql":
        # The name of its index is one of the schema, too.
        connection.execute(
            text(f"ALTER INDEX IF EXISTS {FORMER_VERSION_TABLE}_pkc RENAME TO {VERSION_TABLE}_pkc")
        )


def _read(connection: Connection, table: str) -> str | None:
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - ours
    return found


def _version_table(inspector: Inspector, schema: str | None, tables: set[str]) -> str | None:
    if VERSION_TABLE in tables:
        return VERSION_TABLE
    if FORMER_VERSION_TABLE in tables and _are_ours(inspector, schema, tables):
        return FORMER_VERSION_TABLE
    return None


def _are_ours(inspector: Inspector, schema: str | None, tables: set[str]) -> bool:
    return all(
        table in tables
        and columns <= {column["name"] for column in inspector.get_columns(table, schema)}
        for table, columns in _OUR_COLUMNS.items()
    )


def _current_schema(connection: Connection) -> str | None:
    """Where new tables go. PostgreSQL passes over the schemas in search_path that do not exist,
    so a wrong name would lead to another application's schema."""
    if connection.dialect.name == "sqlite":
        return None
    current, path = connection.execute(
        text("SELECT current_schema(), current_setting('search_path')")
    ).one()
    first = path.partition(",")[0].strip().strip('"')
    if current is None or first not in (current, "$user"):
        raise SchemaError(
            f"search_path begins with the schema {first}, which does not exist, or which the role "
            f"may not use. As an administrator of the database, run: CREATE SCHEMA {first} "
            "AUTHORIZATION (the role in DATABASE_URL)."
        )
    schema: str = current
    return schema


def foreign_tables_error(url: str, names: Sequence[str]) -> SchemaError:
    shown = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
    remedy = "name another file in DATABASE_URL"
    if url.startswith("postgresql"):
        remedy = (
            "name another database in DATABASE_URL, or run CREATE SCHEMA hourpass and add "
            "?options=-csearch_path%3Dhourpass"
        )
    return SchemaError(
        f"The database already has {shown}, which belongs to another application, and Hourpass "
        f"needs that name. Nothing was changed. To keep them apart, {remedy}."
    )
