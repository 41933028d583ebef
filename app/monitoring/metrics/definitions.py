"""All metrics: their names, labels and descriptions. docs/monitoring.md says what to watch.

No label has the name of a user, the id of a key or a text from a client. Each has few values, all
of which are in the code.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "summary", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`merge` says what the value of all workers is. Counters, summaries and histograms are added,
    and keep what ended workers have counted."""

    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    merge: Literal["sum", "max", "min"] = "sum"

    @property
    def outlasts_its_worker(self) -> bool:
        return self.kind != "gauge"


# Of the process that serves the metrics.
BUILD_INFO = Metric(
    "hourpass_build_info",
    "gauge",
    "Version of the service, of Python, and the kind of database. The value is always 1.",
    ("version", "python", "database"),
)
WORKERS = Metric("hourpass_workers", "gauge", "Worker processes that are running.")
WORKERS_WANTED = Metric(
    "hourpass_workers_wanted", "gauge", "Worker processes that should run, as set by WORKERS."
)
WORKERS_ENDED = Metric(
    "hourpass_workers_ended", "counter", "Worker processes that have ended, restarts included."
)
# Each other one is in the report of a worker, by its attribute name.
OF_WORKERS = (
    Metric(
        "hourpass_requests",
        "counter",
        "HTTP requests by route and status. Status 499 means that the client hung up.",
        ("route", "status"),
    ),
    Metric(
        "hourpass_request_duration_seconds",
        "histogram",
        "Time to answer requests that were not answered from memory, by route.",
        ("route",),
    ),
    Metric(
        "hourpass_token_checks",
        "counter",
        "Token checks by path, result, and whether they were answered from memory.",
        ("path", "result", "source"),
    ),
    Metric("hourpass_logins", "counter", "Password logins by result.", ("result",)),
    Metric("hourpass_tokens_issued", "counter", "Access tokens issued by grant.", ("grant",)),
    Metric(
        "hourpass_events",
        "counter",
        "Actions in the audit log, by action and result.",
        ("action", "result"),
    ),
    Metric(
        "hourpass_refusals",
        "counter",
        "Requests and connections refused because they exceeded a limit, by limit.",
        ("limit",),
    ),
    Metric("hourpass_connections", "gauge", "Open connections."),
    Metric("hourpass_connections_limit", "gauge", "Connections that all workers keep open."),
    Metric(
        "hourpass_connections_evicted",
        "counter",
        "Idle connections closed early to make room for new ones.",
    ),
    Metric(
        "hourpass_revocations_published", "counter", "Revocations published by the HTTP service."
    ),
    Metric(
        "hourpass_revocation_feed_position",
        "gauge",
        "Number of the newest revocation that all workers together know.",
        merge="max",
    ),
    Metric(
        "hourpass_revocations_stale_seconds",
        "gauge",
        "Time since the worker knew all revocations; 0 while it does. Of the worst worker.",
        merge="max",
    ),
    Metric("hourpass_feed_listeners", "gauge", "Clients that wait for new revocations."),
    Metric("hourpass_feed_listeners_limit", "gauge", "Clients that may wait for new revocations."),
    Metric("hourpass_hashing_threads", "gauge", "Passwords that are hashed at the same time."),
    Metric(
        "hourpass_hashing_queue",
        "gauge",
        "Passwords that wait to be hashed. A costly imported hash counts several times.",
    ),
    Metric("hourpass_hashing_queue_limit", "gauge", "Passwords that may wait to be hashed."),
    Metric("hourpass_hash_seconds", "summary", "Time to hash or verify a password."),
    Metric(
        "hourpass_hash_wait_seconds", "summary", "Time that a password waited before it was hashed."
    ),
    Metric("hourpass_database_connections_in_use", "gauge", "Connections of the pool in use."),
    Metric(
        "hourpass_database_connections_limit",
        "gauge",
        "Size of the pools of all workers, as set by DATABASE_POOL_SIZE.",
    ),
    Metric(
        "hourpass_database_errors",
        "counter",
        "Operations that failed because the database was unreachable, overloaded or refused them.",
    ),
    Metric(
        "hourpass_database_statement_seconds",
        "summary",
        "Time that operations waited for a database statement.",
    ),
    Metric("hourpass_mail_waiting", "gauge", "Messages that wait to be sent.", merge="max"),
    Metric(
        "hourpass_mail_oldest_seconds",
        "gauge",
        "Age of the oldest message that waits to be sent; 0 if there is none.",
        merge="max",
    ),
    Metric("hourpass_mail_sent", "counter", "Messages that the mail server accepted."),
    Metric(
        "hourpass_mail_failed_tries",
        "counter",
        "Tries to send a message that the mail server did not accept.",
    ),
    Metric("hourpass_mail_discarded", "counter", "Messages given up without being delivered."),
    Metric(
        "hourpass_job_last_success_timestamp_seconds",
        "gauge",
        "Time at which a background job last succeeded in any worker.",
        ("name",),
        merge="max",
    ),
    Metric("hourpass_job_failures", "counter", "Failed runs of a background job.", ("name",)),
    Metric(
        "hourpass_signing_key_activated_timestamp_seconds",
        "gauge",
        "Time at which the current signing key began to sign. Absent with HS256.",
        merge="min",
    ),
    Metric(
        "hourpass_event_loop_lag_seconds",
        "gauge",
        "Delay of a timer in the event loop during the last second. Of the worst worker.",
        merge="max",
    ),
    Metric("hourpass_resident_memory_bytes", "gauge", "Resident memory of all workers."),
    Metric("hourpass_cpu_seconds", "counter", "CPU time of all workers."),
)
BY_NAME = {metric.name: metric for metric in OF_WORKERS}
