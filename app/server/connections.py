"""Limits on the number of connections of a worker, and on the time that clients take.

docs/security.md lists the numbers. There is a queue for each thing that a connection can wait for,
and a connection is in at most one queue. All connections in a queue have the same time limit, so
the first one exceeds it first. A connection with a request in progress is in no queue, and is never
closed here.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from functools import cached_property
from ipaddress import ip_address
from itertools import chain, islice
from time import monotonic
from typing import NamedTuple, Protocol

from app.ip_addresses import network_of
from app.server.open_files import open_files
from app.settings import Settings

DEFAULT_MAX_CONNECTIONS = 20_000
NETWORK_SHARE = 0.75
MAX_REFUSALS = 100  # connections beyond the limit that get a 503 at the same time

_RESERVED_FILES = MAX_REFUSALS + 100  # besides the database pool and the listen backlog
_SWEEP_SECONDS = 1.0
_MAX_EXPIRED = 100  # in one turn of the event loop
_MAX_CANDIDATES = 50  # connections searched for one of the same network
_WARNING_SECONDS = 60

_log = logging.getLogger("hourpass.connections")


class TimeLimits(NamedTuple):
    """Time limits in seconds."""

    first_head: float = 10  # from the connection to the end of the first request's head
    head: float = 10  # of a later request, from its first byte
    body: float = 20
    idle: float = 5  # between requests; the guard closes its connections after 2
    stalled: float = 30  # while the client reads too little of its answers
    closing: float = 5  # to read the last answer and close the connection
    idle_at_stop: float = 1  # instead of `idle`, while the service stops


class Connection(Protocol):
    queue: "Queue | None"
    idle_queue: "Queue"
    closing_queue: "Queue"
    network: str

    def expire(self) -> None: ...
    def evict(self) -> None: ...
    def fail(self) -> None: ...


class Queue:
    """Connections that wait for the same thing, each with its start time; the oldest first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since: OrderedDict[Connection, float] = OrderedDict()

    def expired(self, now: float) -> Connection | None:
        if not self.since:
            return None
        first = next(iter(self.since))
        return first if self.since[first] <= now - self.seconds else None


class Connections:
    """All connections of one worker."""

    def __init__(self, settings: Settings, times: TimeLimits | None = None) -> None:
        times = times or TimeLimits()
        self._settings = settings
        self._times = times
        self.open = 0
        self.is_stopping = False
        self._open_by_network: dict[str, int] = {}
        self._sweeping_loop: asyncio.AbstractEventLoop | None = None
        self._next_sweep: asyncio.TimerHandle | None = None
        self._warned_at = float("-inf")
        self._evicted = self._refused = 0  # since the last warning
        self.evictions = 0
        self.refusals: Counter[str] = Counter()  # by limit
        self.first_heads = Queue(times.first_head)
        self.heads = Queue(times.head)
        self.bodies = Queue(times.body)
        self.idle = Queue(times.idle)
        self.idle_proxies = Queue(times.idle)
        self.stalled = Queue(times.stalled)
        self.closing = Queue(times.closing)
        self.refused = Queue(times.closing)  # beyond the limit, and not counted
        # In the order of eviction: first the connections that have never sent a request, last the
        # pools of trusted proxies.
        self._evictable = (
            self.first_heads,
            self.heads,
            self.closing,
            self.idle,
            self.bodies,
            self.stalled,
            self.idle_proxies,
        )
        self._queues = (*self._evictable, self.refused)

    @cached_property
    def limit(self) -> int:
        """Connections that the worker keeps open. Reads the open-files limit of the process once,
        so call raise_open_files() first."""
        possible = possible_connections(self._settings, open_files())
        wanted = self._settings.max_connections
        if wanted is None:
            return min(possible, DEFAULT_MAX_CONNECTIONS)
        if wanted > possible:
            _log.warning("MAX_CONNECTIONS is above the open-files limit", extra={"limit": possible})
        return min(wanted, possible)

    @cached_property
    def limit_per_network(self) -> int:
        wanted = self._settings.max_connections_per_network
        return min(self.limit, wanted or max(1, int(self.limit * NETWORK_SHARE)))

    def join(self, connection: Connection, host: str) -> bool:
        """Add a connection. May evict another one. Returns False if there is no place."""
        self._start_sweeping()
        is_proxy = self._is_proxy(host)
        connection.idle_queue = self.idle_proxies if is_proxy else self.idle
        network = network_of(host)
        of_network = self._open_by_network.get(network, 0)
        has_room = True
        if network and not is_proxy and of_network >= self.limit_per_network:
            has_room = self._make_room(network)
        elif self.open >= self.limit:
            has_room = self._make_room()
        if not has_room:
            connection.closing_queue = self.refused
            self.move(connection, self.refused)
            return False
        connection.closing_queue = self.closing
        connection.network = network
        self.open += 1
        self._open_by_network[network] = self._open_by_network.get(network, 0) + 1
        self.move(connection, self.first_heads)
        return True

    def leave(self, connection: Connection) -> None:
        self.move(connection, None)
        if connection.closing_queue is self.refused:
            return
        self.open -= 1
        left = self._open_by_network[connection.network] - 1
        if left:
            self._open_by_network[connection.network] = left
        else:
            del self._open_by_network[connection.network]

    @property
    def can_refuse(self) -> bool:
        """Whether a connection beyond the limit can get a 503."""
        return len(self.refused.since) <= MAX_REFUSALS

    def stop(self) -> None:
        """Close idle connections sooner, but not at once: on a busy connection, the next request is
        already on its way. Its answer tells the client to close."""
        if self.is_stopping:
            return
        self.is_stopping = True
        for queue in (self.idle, self.idle_proxies):
            queue.seconds = min(queue.seconds, self._times.idle_at_stop)
        if self._next_sweep:
            self._next_sweep.cancel()
            self._sweep()

    def move(self, connection: Connection, queue: Queue | None) -> None:
        if connection.queue is not None:
            del connection.queue.since[connection]
        connection.queue = queue
        if queue is not None:
            queue.since[connection] = monotonic()

    def _is_proxy(self, host: str) -> bool:
        proxies = self._settings.trusted_proxies
        if not proxies or not host:
            return False
        address = ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in proxies)

    def _make_room(self, network: str | None = None) -> bool:
        """Evict the connection that has waited longest. Returns False if there is none."""
        waiting = chain.from_iterable(queue.since for queue in self._evictable)
        candidate = next(
            (one for one in islice(waiting, _MAX_CANDIDATES) if network in (None, one.network)),
            None,
        )
        if candidate:
            self.move(candidate, None)
            candidate.evict()
            self._evicted += 1
            self.evictions += 1
        else:
            self._refused += 1
            self.refusals["connections" if network is None else "connections_per_network"] += 1
        self._warn(network)
        return candidate is not None

    def _warn(self, network: str | None) -> None:
        if monotonic() < self._warned_at + _WARNING_SECONDS:
            return
        self._warned_at = monotonic()
        fields = {"open": self.open, "limit": self.limit, "network": network}
        counts = {"evicted": self._evicted, "refused": self._refused}
        _log.warning("Too many connections", extra={**fields, **counts})
        self._evicted = self._refused = 0

    def _start_sweeping(self) -> None:
        loop = asyncio.get_running_loop()
        # An earlier loop may have stopped before its next sweep.
        if self._sweeping_loop is not loop:
            self._sweeping_loop = loop
            self._next_sweep = loop.call_later(self._interval, self._sweep)

    @property
    def _interval(self) -> float:
        return min(_SWEEP_SECONDS, *(queue.seconds / 4 for queue in self._queues))

    def _sweep(self) -> None:
        is_done = True
        try:
            is_done = self._expire_connections()
        finally:
            self._sweeping_loop = self._next_sweep = None
            if self.open or self.refused.since:
                loop = self._sweeping_loop = asyncio.get_running_loop()
                self._next_sweep = loop.call_later(self._interval if is_done else 0, self._sweep)

    def _expire_connections(self) -> bool:
        """Returns False if some are left. An error on one connection does not affect the others."""
        now = monotonic()
        left = _MAX_EXPIRED
        for queue in self._queues:
            while left and (connection := queue.expired(now)):
                self.move(connection, None)
                try:
                    connection.expire()
                except Exception:  # noqa: BLE001 - fail() logs it
                    connection.fail()
                left -= 1
        return left > 0


def possible_connections(settings: Settings, files: int) -> int:
    """How many connections a worker can keep open if it may open `files` files."""
    return max(10, files - _RESERVED_FILES - _backlog(files) - settings.database_pool_size)


def backlog() -> int:
    """Connections that the operating system accepts before the process does."""
    return _backlog(open_files())


def _backlog(files: int) -> int:
    return min(2048, files // 8)
