"""asyncpg with bounded waits, several hosts, and support for connection poolers."""

import asyncio
import contextlib
import math
import socket
from asyncio import Transport
from typing import Any

import asyncpg
from sqlalchemy import text

from app.database import timelines
from app.database.connector import (
    CANCEL_SECONDS,
    IDLE_TRANSACTION_SECONDS,
    LOCK_SECONDS,
    SERVER_STATEMENT_SECONDS,
    STATEMENT_SECONDS,
    Connector,
    OlderTimelineError,
)
from app.database.postgres_url import Host, PostgresUrl, TcpOptions

_TIMEOUTS = {
    "statement_timeout": f"{SERVER_STATEMENT_SECONDS * 1000:.0f}",  # milliseconds
    "lock_timeout": f"{LOCK_SECONDS * 1000:.0f}",
    "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_SECONDS * 1000:.0f}",
}
# Whatever the role's default is: our statements are written for it, and at a higher level the
# server refuses those that it cannot order.
_ISOLATION = {"default_transaction_isolation": "read committed"}
# A pooler does not pass on what a connection sets at its start. Between transactions, the server's
# connection belongs to others.
SET_TIMEOUTS = text(
    "SELECT " + ", ".join(f"set_config('{name}', '{ms}', true)" for name, ms in _TIMEOUTS.items())
)
_PROTOCOL_VIOLATION = "08P01"


class PostgresConnector(Connector):
    def __init__(self, url: PostgresUrl, *, limit_statements: bool = True) -> None:
        """Without `limit_statements`, statements and locks may take as long as they need."""
        super().__init__()
        self._url = url
        self._limit_statements = limit_statements
        self._hosts = list(url.hosts)
        self._has_pooler: bool | None = url.has_pooler or None  # None: not known yet
        self._entered: str | None = None  # the last timeline on which ids may be given out

    async def connect(self) -> "Connection":
        driver: Connection = await super().connect()
        if driver.timeline not in (None, self._entered):
            await self._enter_timeline(driver)
        return driver

    async def _enter_timeline(self, driver: "Connection") -> None:
        # The connections of before lead to a former primary.
        self.discarded_at = max(self.discarded_at, math.nextafter(driver.opened_at, -math.inf))
        self.timeline = driver.timeline
        try:
            await timelines.enter(driver)
        except BaseException:
            await driver.close()
            raise
        self._entered = driver.timeline

    async def has_pooler(self) -> bool:
        """Whether a pooler such as PgBouncer may give each transaction another connection of the
        server. Prepared statements and settings would then be missing."""
        if self._has_pooler is None:
            driver = await self._detect_pooler()
            driver.terminate()
        assert self._has_pooler is not None
        return self._has_pooler

    @property
    def sets_timeouts_per_transaction(self) -> bool:
        return self._limit_statements and self._has_pooler is True

    async def _open(self) -> "Connection":
        has_pooler = await self.has_pooler()
        return await self._open_any(has_pooler=has_pooler)

    async def _detect_pooler(self) -> "Connection":
        try:
            driver = await self._open_any(has_pooler=False, statement_cache_size=0)
        except asyncpg.PostgresError as error:
            if error.sqlstate != _PROTOCOL_VIOLATION:
                raise
            # PgBouncer refuses a setting that it does not know. Raises again if that is not why.
            driver = await self._open_any(has_pooler=True)
            self._has_pooler = True
            return driver
        # A pooler invents the process id that a client would use to cancel a statement.
        found = await driver.fetchval("SELECT pg_backend_pid()")
        self._has_pooler = found != driver.get_server_pid()
        return driver

    async def _open_any(self, *, has_pooler: bool, **options: Any) -> "Connection":
        """Try each host, first the one that accepted the last connection."""
        refusal: Exception | None = None
        for host in tuple(self._hosts):
            try:
                driver = await self._open_one(host, has_pooler=has_pooler, **options)
                await self._check_timeline(driver, has_pooler=has_pooler)
            except Exception as error:  # noqa: BLE001 - drivers raise errors of their own
                # A server's answer says more than a host that cannot be reached.
                if refusal is None or not isinstance(refusal, asyncpg.PostgresError):
                    refusal = error
            else:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return driver
        assert refusal is not None
        raise refusal

    async def _check_timeline(self, driver: "Connection", *, has_pooler: bool) -> None:
        if not self._limit_statements:
            return
        try:
            # A pooler may prepare a statement on one server and execute it on another, unless both
            # are in one transaction.
            async with driver.transaction() if has_pooler else contextlib.nullcontext():
                driver.timeline = await timelines.read(driver)
        except BaseException:
            await driver.close()
            raise
        if timelines.is_older(driver.timeline, self.timeline):
            await driver.close()
            raise OlderTimelineError

    async def _open_one(self, host: Host, *, has_pooler: bool, **options: Any) -> "Connection":
        settings = dict(self._url.server_settings)
        if has_pooler:
            options["statement_cache_size"] = 0
        else:
            settings |= _ISOLATION
            if self._limit_statements:
                settings |= _TIMEOUTS
        driver: Connection = await asyncpg.connect(
            **self._url.arguments,
            host=host.name,
            port=host.port,
            timeout=self._url.connect_seconds,
            command_timeout=STATEMENT_SECONDS if self._limit_statements else None,
            server_settings=settings,
            connection_class=Connection,
            **options,
        )
        driver.set_tcp_options(self._url.tcp)
        return driver


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    # When it was asked for, on the monotonic clock.
    opened_at: float
    timeline: str | None = None  # of the server (timelines.py)

    _transport: Transport

    _cancellations: set[asyncio.Task[None]]

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's own
        """Close it without waiting for the server's answer, which may never come.

        After a timeout, asyncpg cancels the statement on another connection. Otherwise a commit
        that waits for a standby would keep its locks for as long as the standby is away.
        """
        if self._cancellations:
            await asyncio.wait(set(self._cancellations), timeout=CANCEL_SECONDS)
        self.terminate()

    def set_tcp_options(self, options: TcpOptions) -> None:
        """Let the system notice that the other side has gone, and keep firewalls from forgetting an
        idle connection."""
        connected = self._transport.get_extra_info("socket")
        if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
            return
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive))
        for name, value in (
            ("TCP_KEEPIDLE", options.idle_seconds),
            ("TCP_KEEPINTVL", options.interval_seconds),
            ("TCP_KEEPCNT", options.probes),
            ("TCP_USER_TIMEOUT", options.user_timeout_ms),
        ):
            if hasattr(socket, name):  # not all systems have all of them
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
