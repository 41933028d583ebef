"""/metrics of a service with two workers, as Prometheus sees it."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.metrics.definitions import OF_WORKERS, WORKERS, WORKERS_ENDED
from app.settings import ROOT
from tests.support.metrics import Scrape, scrape, scrape_until
from tests.support.processes import free_port
from tests.support.settings import make_settings
from tests.support.started_service import HOURPASS, Service, started
from tests.support.users import ARTHUR

# What people type into the wrong field, and what scanners ask for.
ODD_NAMES = ["my secret password", 'x"} 1\nhourpass_logins_total{result="accepted', "Ärthur\\"]
ODD_PATHS = ["/wp-login.php", "/users/7/no-such-thing", "/verify/of/lancelot", "/%22%7D%0Ahourpass"]


@dataclass
class Measured:
    """A service with metrics."""

    service: Service
    port: int

    @property
    def url(self) -> str:
        return self.service.base_url

    def ask(self, path: str) -> int:
        """On a connection of its own, so that any worker may get it."""
        return httpx.get(f"{self.url}{path}").status_code

    def log_in(self, username: str = ARTHUR["username"], password: str = ARTHUR["password"]) -> str:
        body = {"username": username, "password": password}
        return str(httpx.post(f"{self.url}/token", json=body).json().get("token"))

    def worker_ids(self) -> list[int]:
        """Python starts another child with them, which is none."""
        supervisor = self.service.process.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
        return [pid for pid, command in commands.items() if "spawn_main" in command]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    directory, port = tmp_path_factory.mktemp("metrics"), free_port()
    variables = {
        "DATABASE_URL": f"sqlite:///{directory}/hourpass.db",
        "FIRST_ADMIN_USERNAME": ARTHUR["username"],
        "FIRST_ADMIN_PASSWORD": ARTHUR["password"],
        "METRICS_PORT": str(port),
        "SMTP_URL": "smtp+plain://127.0.0.1:1",  # nothing is sent
        "MAIL_FROM": "no-reply@camelot.example",
    }
    command = (*HOURPASS, "serve", "--workers", "2")
    with started(directory, *command, cwd=ROOT, **variables) as service:
        service.wait_for_workers(2)
        scrape_until(port, lambda found: found.total("hourpass_workers") == 2)
        yield Measured(service, port)


def requests(found: Scrape, route: str) -> float:
    return found.total("hourpass_requests_total", route=route)


def test_the_counters_of_both_workers_add_up(measured: Measured) -> None:
    before = requests(scrape(measured.port), "/healthz")
    for _ in range(40):
        assert measured.ask("/healthz") == 200
    scrape_until(measured.port, lambda found: requests(found, "/healthz") == before + 40)


def test_a_check_from_memory_is_counted_with_its_result(measured: Measured) -> None:
    def checks(found: Scrape, result: str) -> float:
        return found.total("hourpass_token_checks_total", path="/token_status", result=result)

    before = scrape(measured.port)
    token = measured.log_in()
    with httpx.Client(base_url=measured.url) as client:  # one worker, which caches the token
        for _ in range(3):
            assert client.get(f"/token_status/{token}").status_code == 200
        assert client.get(f"/token_status/{token}x").status_code == 401

    def is_complete(found: Scrape) -> bool:  # the workers do not report at the same time
        has_checks = checks(found, "valid") == checks(before, "valid") + 3
        return has_checks and found.total("hourpass_tokens_issued_total", grant="password") >= 1

    after = scrape_until(measured.port, is_complete)
    assert checks(after, "invalid") == checks(before, "invalid") + 1
    assert after.total("hourpass_token_checks_total", source="memory", result="valid") >= 2


def test_labels_have_nothing_that_a_client_sent(measured: Measured) -> None:
    for name in ODD_NAMES:
        measured.log_in(name, name)
    for path in ODD_PATHS:
        assert measured.ask(path) in (401, 404)
    assert measured.ask("/" + "x" * 9_000) == 414
    found = scrape_until(
        measured.port,
        lambda found: (
            requests(found, "/verify") >= 1
            and found.total("hourpass_refusals_total", limit="uri_size") >= 1
            and found.total("hourpass_logins_total", result="refused") >= len(ODD_NAMES)
        ),
    )
    routes = create_app(make_settings("sqlite:///x.db")).openapi()["paths"]
    assert found.values_of("route") <= {*routes, "/verify/{path:path}", "unmatched"}
    assert found.values_of("result") >= {"accepted", "refused"}
    for label in ("result", "grant", "limit", "path", "source", "action", "name"):
        for value in found.values_of(label):
            assert re.fullmatch(r"/?[a-z_]+(\.[a-z_]+)*", value), value
    assert found.values_of("status") <= {str(status) for status in range(200, 600)}
    for text in ("secret", "wp-login", "lancelot", "thur"):
        assert text not in found.text


def test_the_public_port_has_no_metrics(measured: Measured) -> None:
    assert measured.ask("/metrics") == 404
    assert httpx.get(f"http://127.0.0.1:{measured.port}/healthz").status_code == 404


def test_every_metric_has_a_description_and_is_there(measured: Measured) -> None:
    measured.log_in("nobody", "at all")
    found = scrape_until(measured.port, lambda found: found.has("hourpass_events_total"))
    described = {
        metric.name: metric.description for metric in (WORKERS, WORKERS_ENDED, *OF_WORKERS)
    }
    # prometheus_client's parser keeps the names of counters without `_total`.
    assert {name: text for name, text in found.descriptions.items() if name in described} == {
        name: text for name, text in described.items() if name in found.descriptions
    }
    assert described.keys() - found.descriptions.keys() <= {"hourpass_refusals"}
    assert all(text.endswith(".") for text in described.values())


def test_rules_and_dashboard_name_metrics_that_are_there(measured: Measured) -> None:
    measured.log_in()
    assert measured.ask("/" + "x" * 9_000) == 414
    found = scrape_until(
        measured.port,
        lambda found: found.has("hourpass_refusals_total") and found.has("hourpass_events_total"),
    )
    folder = ROOT / "examples/monitoring"
    for name in ("hourpass.rules.yml", "grafana-dashboard.json"):
        named = set(re.findall(r"\bhourpass_[a-z_]+", (folder / name).read_text()))
        assert len(named) > 15
        assert named <= {sample.name for sample in found.samples}, name
    page = (ROOT / "docs/monitoring.md").read_text()
    named = set(re.findall(r"\bhourpass_[a-z_]+", page))
    families = {re.sub("_(bucket|count|sum)$", "", sample.name) for sample in found.samples}
    assert named == families
    alerts = re.findall(r"alert: (\w+)", (folder / "hourpass.rules.yml").read_text())
    assert set(re.findall(r"`(Hourpass[A-Z]\w+)`", page)) == set(alerts)


def test_what_a_killed_worker_has_counted_stays_and_its_gauges_go(measured: Measured) -> None:
    metadata = "/.well-known/oauth-authorization-server"  # which no other test asks for
    for _ in range(20):
        assert measured.ask(metadata) == 200
    before = scrape_until(measured.port, lambda found: requests(found, metadata) == 20)
    ended = before.total("hourpass_workers_ended_total")
    os.kill(measured.worker_ids()[0], signal.SIGKILL)
    after = scrape_until(
        measured.port,
        lambda found: (
            found.total("hourpass_workers_ended_total") == ended + 1
            and found.total("hourpass_workers") == 2
        ),
    )
    assert requests(after, metadata) == 20
    for gauge in ("hourpass_hashing_threads", "hourpass_connections_limit"):
        assert after.total(gauge) == before.total(gauge) > 0


def test_a_restart_keeps_the_counters(measured: Measured) -> None:
    before = scrape(measured.port)
    keys = "/.well-known/jwks.json"  # which no other test asks for
    for _ in range(10):
        assert measured.ask(keys) == 200
    ended = before.total("hourpass_workers_ended_total")
    measured.service.process.send_signal(signal.SIGHUP)
    after = scrape_until(
        measured.port, lambda found: found.total("hourpass_workers_ended_total") == ended + 2
    )
    assert requests(after, keys) == 10
    assert after.total("hourpass_workers") == 2


def test_a_worker_that_stops_reports_what_it_has_counted_last(measured: Measured) -> None:
    """Less than a second after its last report."""
    ended = scrape(measured.port).total("hourpass_workers_ended_total")
    workers = measured.worker_ids()
    for _ in range(10):
        assert measured.ask("/docs") == 200  # for which no other test asks
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    after = scrape_until(
        measured.port, lambda found: found.total("hourpass_workers_ended_total") == ended + 2
    )
    assert requests(after, "/docs") == 10


def test_one_worker_serves_its_own_metrics_and_warns_of_a_public_address(tmp_path: Path) -> None:
    port = free_port()
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/hourpass.db",
        "METRICS_PORT": str(port),
        "METRICS_HOST": "0.0.0.0",
    }
    with started(tmp_path, *HOURPASS, "serve", cwd=ROOT, **variables) as service:
        service.wait_until_ready()
        found = scrape_until(port, lambda found: requests(found, "/readyz") >= 1)
        assert found.total("hourpass_workers") == 1
        assert not found.has("hourpass_mail_waiting")  # there is no mail server
        warning = "METRICS_HOST is 0.0.0.0: everybody who reaches it can read the metrics"
        assert service.logged(warning)["level"] == "warning"
