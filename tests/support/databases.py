"""Databases of a test beside its own: a copy that takes its place, or the target of a copy."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from app.settings import Settings
from tests.support import database_templates as templates
from tests.support.database_templates import Postgres
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings

ORDINARY_ROLE = "service_role"
DISCONNECT = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"


class Twin:
    """A second database that begins as a copy of the first one, and can take its place."""

    def __init__(self, url: str, copy: Callable[[], str], swap: Callable[[], None]) -> None:
        self.first_url = url
        self._copy = copy
        self._swap = swap

    def copy(self) -> str:
        """Returns the URL of the copy."""
        return self._copy()

    def swap(self) -> None:
        """The first one's URL leads to the copy from now on, as after a failover or restore."""
        self._swap()


@pytest.fixture
def twin(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Twin]:
    if database_url.startswith("sqlite"):
        yield _sqlite_twin(Path(database_url.removeprefix("sqlite:///")), tmp_path / "twin.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database() as other_url:
        yield _postgres_twin(postgres, database_url, other_url)


@pytest.fixture
def target_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the other kind, migrated and empty."""
    if database_url.startswith("postgresql"):
        path = tmp_path / "target.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(templates.migrated_postgres()) as url:
        yield url


async def execute(url: str, *statements: str) -> None:
    """Execute statements on the database itself, without the checks of the service."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    driver = await asyncpg.connect(url)
    try:
        for statement in statements:
            await driver.execute(statement)
    finally:
        await driver.close()


def _sqlite_twin(path: Path, other: Path) -> Twin:
    def copy() -> str:
        with closing(sqlite3.connect(path)) as first, closing(sqlite3.connect(other)) as second:
            first.backup(second)
        return f"sqlite:///{other}"

    def swap() -> None:
        """As `.restore` does it: in one transaction, so that a running service notices."""
        before = path.with_suffix(".before")
        with closing(sqlite3.connect(path)) as first, closing(sqlite3.connect(before)) as kept:
            first.backup(kept)
        with closing(sqlite3.connect(other)) as second, closing(sqlite3.connect(path)) as first:
            second.backup(first)
        shutil.copy(before, other)

    return Twin(f"sqlite:///{path}", copy, swap)


def _postgres_twin(postgres: Postgres, url: str, other_url: str) -> Twin:
    first, second = (make_url(one).database for one in (url, other_url))

    def refuse_connections(*names: str | None) -> None:
        for name in names:
            postgres.run(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            postgres.run(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )

    def copy() -> str:
        postgres.run(f"DROP DATABASE {second} WITH (FORCE)")
        refuse_connections(first)
        postgres.run(f"CREATE DATABASE {second} TEMPLATE {first} STRATEGY FILE_COPY")
        postgres.run(f"ALTER DATABASE {first} WITH ALLOW_CONNECTIONS true")
        return other_url

    def swap() -> None:
        refuse_connections(first, second)
        postgres.run(f"ALTER DATABASE {first} RENAME TO swapping")
        postgres.run(f"ALTER DATABASE {second} RENAME TO {first}")
        postgres.run(f"ALTER DATABASE swapping RENAME TO {second}")
        for name in (first, second):
            postgres.run(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    return Twin(url, copy, swap)


@pytest.fixture
def ordinary_role(postgres: Postgres, database_url: str) -> Iterator[Settings]:
    """The service connects as a role whose rights the server checks. A superuser may do all."""
    name = make_url(database_url).database
    grants = "GRANT {} IN SCHEMA public TO " + ORDINARY_ROLE
    postgres.run(f"CREATE ROLE {ORDINARY_ROLE} LOGIN")
    in_database(postgres, name, grants.format("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"))
    url = database_url.replace("postgres:@", f"{ORDINARY_ROLE}:@")
    assert ORDINARY_ROLE in url
    yield make_settings(url, **ARTHUR_ADMINISTERS)
    postgres.run(DISCONNECT.format(name=name))
    in_database(postgres, name, f"DROP OWNED BY {ORDINARY_ROLE}")
    postgres.run(f"DROP ROLE {ORDINARY_ROLE}")


def in_database(postgres: Postgres, name: str | None, *statements: str) -> None:
    postgres.run(f"\\connect {name}\n" + ";\n".join(statements) + ";")
