"""A background job of each worker that reports its metrics once a second.

It only reads: the numbers are attributes of the objects that count.
"""

import logging
import sys
from asyncio import Event
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from time import monotonic, process_time
from typing import Protocol, runtime_checkable

from sqlalchemy.pool import QueuePool
from starlette.datastructures import State

from app.background_jobs import BackgroundJobs, wait_or_stop
from app.database.failure_log import FailureLog
from app.http.request_counts import RequestCounts
from app.login.dependencies import Grants
from app.mail.worker import MailWorker
from app.monitoring.metrics.event_counts import EventCounts
from app.monitoring.metrics.mail_queue import MailQueue
from app.monitoring.metrics.samples import Labels, Samples, Value, dump
from app.server.connections import Connections
from app.server.reports import Report
from app.services import Services
from app.settings import Settings
from app.token_checks.service import TokenIntrospection

REPORT_SECONDS = 1.0

_CHECK_PATHS = {
    "/verify": "/verify",
    "/verify/{path:path}": "/verify",
    "/token_status/{token}": "/token_status",
}
_RESULTS = {200: "valid", 401: "invalid", 403: "insufficient_scope", 422: "invalid_request"}
# These are there from the start, so that Prometheus sees the first increase too.
_USUAL_CHECKS = list(
    product(("/verify", "/token_status"), ("valid", "invalid"), ("memory", "database"))
)

_log = logging.getLogger("hourpass.metrics")


@runtime_checkable
class Job(Protocol):
    name: str
    failures: FailureLog


class Reporter:
    def __init__(self, state: State, report: Report) -> None:
        self._state = state
        self._report = report
        self._has_started = False
        self._lag_seconds = 0.0
        self._events = EventCounts()
        services: Services = state.services
        services.events.subscribe(self._events.subscriber)
        self._statements = state.database.time_statements()
        self.mail = MailQueue(state.database)

    async def run(self, stopping: Event) -> None:
        self._has_started = True
        is_stopping = False
        while not is_stopping:
            try:
                self.write()
            except Exception:  # noqa: BLE001 - logged; the metrics must not stop the service
                _log.exception("Cannot report the metrics")
            due_at = monotonic() + REPORT_SECONDS
            is_stopping = await wait_or_stop(stopping, REPORT_SECONDS)
            self._lag_seconds = 0.0 if is_stopping else max(0.0, monotonic() - due_at)

    def write(self) -> None:
        """Also called when everything has stopped. Does nothing if the start failed."""
        if self._has_started:
            self._report.write(dump(self.collect()))

    def collect(self) -> Samples:
        samples: Samples = {}
        for name, labels, value in (
            *self._requests(),
            *self._logins(),
            *self._limits(),
            *self._revocations(),
            *self._hashing(),
            *self._database(),
            *self._mail(),
            *self._jobs(),
            *self._process(),
        ):
            samples.setdefault(name, {})[labels] = value
        return samples

    def _requests(self) -> "Iterator[_Sample]":
        counts: RequestCounts = self._state.request_counts
        requests: Counter[Labels] = Counter()
        checks: Counter[Labels] = Counter()
        checks.update(dict.fromkeys(_USUAL_CHECKS, 0))
        from_memory = (
            ("memory", route, status, number)
            for route, by_status in counts.prepared.items()
            for status, number in by_status.items()
        )
        routed = (
            ("database", route, status, number) for (route, status), number in counts.routed.items()
        )
        for source, route, status, number in (*from_memory, *routed):
            requests[route, str(status)] += number
            if path := _CHECK_PATHS.get(route):
                checks[path, _RESULTS.get(status, "other"), source] += number
        introspection: TokenIntrospection = self._state.token_introspection
        checks["/introspect", "valid", "database"] = introspection.active
        checks["/introspect", "invalid", "database"] = introspection.inactive
        yield from _each("hourpass_requests", requests)
        yield from _each("hourpass_token_checks", checks)
        for route, buckets in counts.durations.items():
            yield "hourpass_request_duration_seconds", (route,), [*buckets, counts.seconds[route]]

    def _logins(self) -> "Iterator[_Sample]":
        grants: Grants = self._state.grants
        services: Services = self._state.services
        yield from _each("hourpass_logins", {(r,): n for r, n in self._events.logins.items()})
        yield from _each("hourpass_tokens_issued", {(g,): n for g, n in grants.issued.items()})
        for (action, succeeded), number in self._events.events.items():
            yield "hourpass_events", (action, "succeeded" if succeeded else "failed"), number
        yield "hourpass_revocations_published", (), services.revocations.published

    def _limits(self) -> "Iterator[_Sample]":
        connections: Connections = self._state.connections
        counts: RequestCounts = self._state.request_counts
        refusals = counts.refusals + connections.refusals
        yield from _each("hourpass_refusals", {(limit,): n for limit, n in refusals.items()})
        yield "hourpass_connections", (), connections.open
        yield "hourpass_connections_limit", (), connections.limit
        yield "hourpass_connections_evicted", (), connections.evictions

    def _revocations(self) -> "Iterator[_Sample]":
        cache, feed = self._state.revocation_cache, self._state.revocation_feed
        yield "hourpass_revocation_feed_position", (), cache.head.position
        yield "hourpass_revocations_stale_seconds", (), cache.stale_seconds()
        yield "hourpass_feed_listeners", (), feed.number_of_listeners
        yield "hourpass_feed_listeners_limit", (), feed.max_listeners
        state = self._state
        activated_at = state.tokens.keyring.current(state.clock()).activates_at
        if activated_at.year > 1:  # HS256 has no such time
            timestamp = activated_at.timestamp()
            yield "hourpass_signing_key_activated_timestamp_seconds", (), timestamp

    def _hashing(self) -> "Iterator[_Sample]":
        services: Services = self._state.services
        load = services.passwords.load
        yield "hourpass_hashing_threads", (), load.threads
        yield "hourpass_hashing_queue", (), load.waiting
        yield "hourpass_hashing_queue_limit", (), load.max_waiting
        yield "hourpass_hash_seconds", (), [load.number, load.seconds]
        yield "hourpass_hash_wait_seconds", (), [load.number, load.waited_seconds]

    def _database(self) -> "Iterator[_Sample]":
        database, settings = self._state.database, self._state.settings
        pool = database.engine.pool
        if isinstance(pool, QueuePool):
            yield "hourpass_database_connections_in_use", (), pool.checkedout()
        yield "hourpass_database_connections_limit", (), settings.database_pool_size
        yield "hourpass_database_errors", (), database.outages
        times = [self._statements.number, self._statements.seconds]
        yield "hourpass_database_statement_seconds", (), times

    def _mail(self) -> "Iterator[_Sample]":
        settings: Settings = self._state.settings
        if settings.smtp_url is None:
            return
        if self.mail.waiting is not None:
            yield "hourpass_mail_waiting", (), self.mail.waiting
            yield "hourpass_mail_oldest_seconds", (), self.mail.oldest_seconds
        for owner in self._state.jobs.owners:
            if isinstance(owner, MailWorker):
                yield "hourpass_mail_sent", (), owner.delivery.sent
                yield "hourpass_mail_failed_tries", (), owner.delivery.failed_tries
        yield "hourpass_mail_discarded", (), self._events.events["mail.fail", False]

    def _jobs(self) -> "Iterator[_Sample]":
        jobs: BackgroundJobs = self._state.jobs
        for job in jobs.owners:
            if not isinstance(job, Job):
                continue
            yield "hourpass_job_failures", (job.name,), job.failures.number
            if job.failures.succeeded_at is not None:
                name = "hourpass_job_last_success_timestamp_seconds"
                yield name, (job.name,), job.failures.succeeded_at

    def _process(self) -> "Iterator[_Sample]":
        yield "hourpass_event_loop_lag_seconds", (), self._lag_seconds
        yield "hourpass_cpu_seconds", (), process_time()
        if (memory := _resident_memory()) is not None:
            yield "hourpass_resident_memory_bytes", (), memory


_Sample = tuple[str, Labels, Value]


def _each(name: str, numbers: Mapping[Labels, int]) -> Iterator[_Sample]:
    for labels, number in numbers.items():
        yield name, labels, number


def _resident_memory() -> int | None:
    """In bytes. Only Linux tells the current one without a library."""
    if sys.platform != "linux":
        return None
    import resource

    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a few microseconds, each second
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize()
