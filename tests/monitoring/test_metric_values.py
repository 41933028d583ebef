"""What each worker counts, and how the reports of several become one."""

import ctypes
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from uvicorn import Config

from app.database.engine import Database
from app.main import create_app
from app.monitoring.metrics.definitions import BY_NAME
from app.monitoring.metrics.reporter import Reporter
from app.monitoring.metrics.samples import Samples, Totals, dump, load
from app.server import reports
from app.server.reports import MAX_BYTES, Report, Reports
from app.server.supervisor import Worker
from app.settings import Settings
from app.tokens.revocations.cache import create_cache
from tests.support.apps import client_of
from tests.support.authenticator import enroll, log_in_with
from tests.support.mail_server import deliver
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, bearer, log_in, open_session, refresh, register
from tests.support.waiting import until


@pytest.fixture
async def measured_app(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    """As a worker of `hourpass serve` with METRICS_PORT."""
    monkeypatch.setattr(reports, "_own", Report())
    app = create_app(settings.model_copy(update={"metrics_port": 9464}), clock, clock)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(measured_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(measured_app) as client:
        yield client


def reporter_of(app: FastAPI) -> Reporter:
    [reporter] = [owner for owner in app.state.jobs.owners if isinstance(owner, Reporter)]
    return reporter


def value(app: FastAPI, name: str, *labels: str) -> float | list[float]:
    return reporter_of(app).collect().get(name, {}).get(labels, 0)


@on_sqlite
async def test_logins_and_tokens_are_counted_by_result_and_grant(
    measured_app: FastAPI, client: httpx.AsyncClient, clock: Clock
) -> None:
    app = measured_app
    assert value(app, "hourpass_logins", "accepted") == 0
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await refresh(client, session["refresh_token"])
    await client.post("/token", json={**LANCELOT, "password": "wrong"})
    await client.post("/token", json={"username": "nobody", "password": "wrong"})
    await enroll(client, LANCELOT, clock)
    await client.post("/token", json=LANCELOT)
    await log_in_with(client, LANCELOT, "000000")
    samples = reporter_of(app).collect()
    assert samples["hourpass_logins"] == {
        ("accepted",): 2,  # one of them to enroll
        ("refused",): 2,
        ("code_required",): 1,
        ("wrong_code",): 1,
        ("too_many_codes",): 0,
    }
    assert samples["hourpass_tokens_issued"] == {
        ("password",): 2,
        ("refresh_token",): 1,
        ("client_credentials",): 0,
        ("token_exchange",): 0,
    }
    assert samples["hourpass_events"]["user.register", "succeeded"] == 1
    assert samples["hourpass_events"]["login", "failed"] == 3
    number, seconds = samples["hourpass_hash_seconds"][()]  # type: ignore[misc] # it is a summary
    assert number >= 7
    assert seconds > 0
    assert samples["hourpass_hashing_queue"][()] == 0


async def test_checks_are_counted_by_path_result_and_source(
    measured_app: FastAPI, client: httpx.AsyncClient
) -> None:
    token = await log_in(client, ARTHUR)
    for _ in range(3):  # the first one asks the database
        assert (await client.get(f"/token_status/{token}")).status_code == 200
    assert (await client.get("/verify", headers=bearer(token))).status_code == 200
    refused = await client.get("/verify?scope=fly", headers=bearer(token))
    assert refused.status_code == 403
    assert (await client.get("/token_status/nonsense")).status_code == 401
    for asked in (token, "nonsense"):
        form = {"token": asked}
        assert (await client.post("/introspect", data=form, headers=bearer(token))).is_success
    await client.post("/revoke", data={"token": token})
    checks: Counter[tuple[str, ...]] = Counter()
    sources: Counter[str] = Counter()
    for (path, result, source), number in (
        reporter_of(measured_app).collect()["hourpass_token_checks"].items()
    ):
        assert not isinstance(number, list)
        checks[path, result] += int(number)
        sources[source] += int(number)
    assert +checks == {
        ("/token_status", "valid"): 3,
        ("/token_status", "invalid"): 1,
        ("/verify", "valid"): 1,
        ("/verify", "insufficient_scope"): 1,
        ("/introspect", "valid"): 1,
        ("/introspect", "invalid"): 1,
    }
    # On a busy machine, PostgreSQL is asked more often than for the first one and introspections.
    if measured_app.state.database.engine.dialect.name == "sqlite":
        assert sources == {"memory": 5, "database": 3}
    assert sources["database"] >= 3
    assert value(measured_app, "hourpass_revocations_published") == 1
    number, seconds = value(measured_app, "hourpass_database_statement_seconds")  # type: ignore[misc] # a pair
    assert number > 10
    assert seconds > 0


async def test_the_feed_lags_until_it_has_been_read(
    measured_app: FastAPI, database: Database
) -> None:
    cache = measured_app.state.revocation_cache
    await until(lambda: value(measured_app, "hourpass_revocations_stale_seconds") == 0)
    assert cache.is_fresh()
    unread = create_cache(database)
    first = unread.stale_seconds()
    assert 0 <= first < unread.stale_seconds()


@on_sqlite
async def test_refusals_name_the_limit(measured_app: FastAPI, client: httpx.AsyncClient) -> None:
    for _ in range(6):
        await client.post("/token", json={"username": "nobody", "password": "wrong"})
    await client.post("/register-user", content=b"x" * 20_000)
    await client.get("/" + "x" * 9_000)
    await client.get("/healthz", headers={"x-long": "x" * 17_000})
    refusals = reporter_of(measured_app).collect()["hourpass_refusals"]
    assert refusals == {
        ("account",): 1,
        ("body_size",): 1,
        ("uri_size",): 1,
        ("header_size",): 1,
    }


@on_sqlite
async def test_a_full_hashing_queue_is_a_refusal(
    measured_app: FastAPI, client: httpx.AsyncClient
) -> None:
    passwords = measured_app.state.services.passwords
    while passwords._capacity.acquire(blocking=False):
        pass
    response = await client.post("/token", json=ARTHUR)
    assert response.status_code == 503
    assert value(measured_app, "hourpass_refusals", "hashing_queue") == 1


@pytest.mark.sends_mail
@pytest.mark.usefixtures("mailbox")
async def test_waiting_mail_is_counted_by_the_database(
    measured_app: FastAPI, client: httpx.AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)  # a mail that verifies the address
    clock.now = clock().replace(minute=1)
    queue = reporter_of(measured_app).mail
    await queue._count()
    assert value(measured_app, "hourpass_mail_waiting") == 1
    assert value(measured_app, "hourpass_mail_oldest_seconds") == 60
    await deliver(measured_app)
    await queue._count()
    assert value(measured_app, "hourpass_mail_waiting") == 0
    assert value(measured_app, "hourpass_mail_oldest_seconds") == 0


@on_sqlite
@pytest.mark.locked_jobs
async def test_jobs_tell_when_they_last_succeeded(measured_app: FastAPI) -> None:
    succeeded = "hourpass_job_last_success_timestamp_seconds"
    await until(lambda: bool(value(measured_app, succeeded, "housekeeping")))
    samples = reporter_of(measured_app).collect()
    assert samples["hourpass_job_failures"]["housekeeping",] == 0
    assert {name for (name,) in samples["hourpass_job_failures"]} == {
        *("housekeeping", "key_rotation", "signing_keys", "recovery", "old_guards"),
        *("live_api_keys", "api_key_usage", "webhooks"),
    }


@on_sqlite
async def test_a_worker_that_stops_reports_what_it_has_counted_last(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than a second after its last report."""
    report = Report()
    monkeypatch.setattr(reports, "_own", report)
    app = create_app(settings.model_copy(update={"metrics_port": 9464}), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await until(lambda: report.read() is not None)
        for _ in range(3):
            assert (await client.get("/docs")).status_code == 200
    last = report.read()
    assert last
    assert load(last)["hourpass_requests"] == {("/docs", "200"): 3}


@on_sqlite
async def test_nothing_is_measured_unless_a_port_is_set(settings: Settings, clock: Clock) -> None:
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        assert app.state.database._fast_queries.times is None
        owners = app.state.jobs.owners
        assert not [owner for owner in owners if isinstance(owner, Reporter)]


@on_sqlite
async def test_a_server_other_than_hourpass_serve_warns(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings.model_copy(update={"metrics_port": 9464}), clock, clock)
    async with app.router.lifespan_context(app):
        assert "METRICS_PORT has no effect without `hourpass serve`" in caplog.messages


def test_the_port_of_the_service_cannot_be_that_of_the_metrics() -> None:
    with pytest.raises(ValueError, match="METRICS_PORT must not be PORT"):
        Settings(port=8000, metrics_port=8000)


# Reports of several workers

ONE: Samples = {
    "hourpass_requests": {("/token", "200"): 2, ("/token", "401"): 1},
    "hourpass_hash_seconds": {(): [3, 0.5]},
    "hourpass_hashing_queue": {(): 4},
    "hourpass_event_loop_lag_seconds": {(): 0.2},
    "hourpass_signing_key_activated_timestamp_seconds": {(): 1000.0},
}
OTHER: Samples = {
    "hourpass_requests": {("/token", "200"): 5},
    "hourpass_hash_seconds": {(): [1, 0.25]},
    "hourpass_hashing_queue": {(): 1},
    "hourpass_event_loop_lag_seconds": {(): 0.1},
    "hourpass_signing_key_activated_timestamp_seconds": {(): 2000.0},
}


def test_values_of_workers_are_added_or_the_extreme_one_counts() -> None:
    assert Totals().merge([dump(ONE), dump(OTHER)]) == {
        "hourpass_requests": {("/token", "200"): 7, ("/token", "401"): 1},
        "hourpass_hash_seconds": {(): [4, 0.75]},
        "hourpass_hashing_queue": {(): 5},
        "hourpass_event_loop_lag_seconds": {(): 0.2},
        "hourpass_signing_key_activated_timestamp_seconds": {(): 1000.0},
    }


def test_counters_of_ended_workers_stay() -> None:
    totals = Totals()
    totals.retire(dump(ONE))
    totals.retire(None)  # it ended before its first report
    for _ in range(2):  # a scrape changes nothing
        assert totals.merge([dump(OTHER)]) == {
            **OTHER,
            "hourpass_requests": {("/token", "200"): 7, ("/token", "401"): 1},
            "hourpass_hash_seconds": {(): [4, 0.75]},
        }
    assert totals.number_ended == 2


def test_unknown_metrics_of_another_version_are_ignored() -> None:
    """After an upgrade, SIGHUP starts workers that are newer than their supervisor."""
    newer: Samples = {"hourpass_from_tomorrow": {(): 1}, "hourpass_hash_seconds": {(): [1, 1, 1]}}
    assert load(dump(newer)) == {"hourpass_hash_seconds": {(): [1, 1, 1]}}
    assert Totals().merge([dump(ONE), dump(newer)]) == ONE


def test_every_metric_is_merged_by_its_kind() -> None:
    assert {metric.merge for metric in BY_NAME.values() if metric.kind != "gauge"} == {"sum"}


def test_a_worker_killed_while_it_writes_leaves_its_earlier_report() -> None:
    report = Report()
    assert report.read() is None
    for text in (b"first", b"second", b"the third"):
        report.write(text)
        assert report.read() == text
    address = ctypes.addressof(report._memory)
    whole = ctypes.string_at(address, ctypes.sizeof(report._memory))
    report.write(b"the fourth is only half there")
    changed = ctypes.string_at(address, ctypes.sizeof(report._memory))
    first = next(i for i, (a, b) in enumerate(zip(whole, changed, strict=True)) if a != b)
    ctypes.memset(address + first + 20, 0, 5)
    assert report.read() == b"the third"


def test_a_report_that_is_too_long_leaves_the_earlier_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = Report()
    report.write(b"x" * MAX_BYTES)
    report.write(b"y" * (MAX_BYTES + 1))
    assert report.read() == b"x" * MAX_BYTES
    assert "The report of this worker is too long" in caplog.messages


def test_a_worker_that_has_not_started_has_not_ended() -> None:
    assert not Worker(Config("app.main:app"), []).has_ended()


def test_the_last_report_of_an_ended_worker_is_handed_over_once() -> None:
    retired: list[bytes | None] = []
    ended: set[str] = set()
    all_reports = Reports(retired.append)
    for name in ("one", "two", "three"):
        report = Report()
        if name != "three":
            report.write(name.encode())
        all_reports.add(report, lambda name=name: name in ended)  # type: ignore[misc] # of each
    assert all_reports.read() == [b"one", b"two"]
    ended |= {"one", "three"}
    assert all_reports.read() == all_reports.read() == [b"two"]
    assert retired == [b"one", None]
    ended.add("two")
    all_reports.add(Report())  # also if nobody reads
    assert retired == [b"one", None, b"two"]
