"""Whether a PostgreSQL server is behind a pooler, found out once for each server.

The service finds out at its start, with a connection for this alone. Tests start it a thousand
times on the same server, and each connection costs that server as much as a short test.
"""

from app.database.postgres_driver import PostgresConnector


def share() -> None:
    """With all connectors of this process to a socket in a folder, as the tests' server has it. A
    TCP port may be another server's later, and tests/database/test_pgbouncer.py has a pooler
    there."""
    detect = PostgresConnector.has_pooler
    found: dict[tuple[str, ...], bool] = {}

    async def has_pooler(self: PostgresConnector) -> bool:
        folders = tuple(sorted(str(host.name) for host in self._url.hosts))
        if not all(folder.startswith("/") for folder in folders):
            return await detect(self)
        if self._has_pooler is None:
            self._has_pooler = found.get(folders)
        found[folders] = await detect(self)
        return found[folders]

    PostgresConnector.has_pooler = has_pooler  # type: ignore[method-assign] # same answer
