"""Creates a migrated database with users, and the requests that they send.

Writes directly into the tables, because a million registrations would take hours.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from random import Random

from sqlalchemy import LargeBinary, bindparam, text

from app.context import RequestContext
from app.database import migrations
from app.database.base import UtcDateTime
from app.database.engine import Database
from app.security.passwords import Passwords
from app.settings import Settings
from app.tokens.jwt import AccessTokenRequest, AccessTokens
from app.tokens.signing_keys.store import KeyStore
from benchmarks.load import get, post
from benchmarks.parameters import ARGON2_MEMORY_KIB, ARGON2_PASSES, PASSWORD

# Both databases understand this.
_SERIES = (
    "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :count)"
)
_USERS = f"""{_SERIES}
    INSERT INTO users (username, username_folded, email, password_hash, is_enabled, is_admin,
                       scopes, token_epoch, created_at)
    SELECT 'user' || n, 'user' || n, 'user' || n || '@camelot.example', :hash, true, false,
           '', 0, :now
    FROM series"""
_SESSIONS = f"""{_SERIES}
    INSERT INTO sessions (id, user_id, epoch, scope, handle, secret_hash, rotation_key,
                          rotated_at, created_at, expires_at, address, user_agent)
    SELECT 'session' || n, n, 0, 'offline_access', 'handle' || n, :bytes, :bytes,
           :now, :now, :later, '192.0.2.1', 'benchmark'
    FROM series"""


class Population:
    """`variables` are the settings of the servers to start on it."""

    def __init__(
        self,
        database_url: str,
        users: int = 400,
        sessions: int = 0,
        *,
        memory_kib: int = ARGON2_MEMORY_KIB,
    ) -> None:
        self.variables = {
            "DATABASE_URL": database_url,
            "ISSUER": "http://hourpass.example",  # whatever the port
            "ARGON2_MEMORY_KIB": str(memory_kib),
            "ARGON2_PASSES": str(ARGON2_PASSES),
            "USER_ACTIONS_PER_HOUR": "1000000",  # few users do all of it
        }
        self._users = users
        self._settings = Settings.model_validate(
            {name.lower(): value for name, value in self.variables.items()}
        )
        migrations.upgrade(self._settings)
        self._tokens = asyncio.run(self._settle(sessions))

    def tokens(self, number: int, users: Iterable[int] | None = None, scope: str = "") -> list[str]:
        """Distinct and live, issued as a login issues them; of all users by turns, or of these."""
        now = datetime.now(UTC)
        grants = [
            AccessTokenRequest(
                str(user), f"user{user}", token_version=0, scope=scope, authenticated_at=now
            )
            for user in islice(cycle(users or range(1, self._users + 1)), number)
        ]
        return [self._tokens.encode(grant, now) for grant in grants]

    def logins(self, number: int = 1000) -> list[bytes]:
        """Of users all over the table."""
        body = '{"username":"user%d","password":"' + PASSWORD + '"}'
        users = Random(4).choices(range(1, self._users + 1), k=number)
        return [post("/token", "application/json", body % user) for user in users]

    async def _settle(self, sessions: int) -> AccessTokens:
        passwords = Passwords(self._settings)
        database = Database(self._settings)
        now = datetime.now(UTC)
        try:
            values = {"hash": await passwords.hash(PASSWORD), "now": now}
            times = bindparam("now", type_=UtcDateTime)
            async with database.session() as session:
                statement = text(_USERS).bindparams(times)
                await session.execute(statement, {"count": self._users, **values})
                if sessions:
                    statement = text(_SESSIONS).bindparams(
                        times,
                        bindparam("later", type_=UtcDateTime),
                        bindparam("bytes", type_=LargeBinary),
                    )
                    later = now + timedelta(days=1)
                    values = {"count": sessions, "now": now, "later": later, "bytes": bytes(32)}
                    await session.execute(statement, values)
                await session.commit()
                await session.execute(text("ANALYZE"))
                await session.commit()
                return AccessTokens(
                    self._settings,
                    await KeyStore(self._settings).load(RequestContext(session, now)),
                )
        finally:
            passwords.close()
            await database.close()


def token_status(token: str) -> bytes:
    return get(f"/token_status/{token}")


def verify(token: str, path: str = "/verify") -> bytes:
    return get(path, f"Authorization: Bearer {token}")
