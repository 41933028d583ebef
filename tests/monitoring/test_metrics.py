"""/metrics of a service with two workers, as Prometheus sees it."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.monitoring.metrics.definitions import OF_WORKERS, WORKERS, WORKERS_ENDED
from app.settings import ROOT
from tests.support import database_templates as templates
from tests.support.forked_process import ForkedProcess, forked_ids
from tests.support.metrics import Scrape, scrape, scrape_until
from tests.support.processes import free_port
from tests.support.service_process import serving, serving_process
from tests.support.settings import make_settings
from tests.support.users import ARTHUR

# What people type into the wrong field, and what scanners ask for.
ODD_NAMES = ["my secret password", 'x"} 1\nhourpass_logins_total{result="accepted', "Ärthur\\"]
ODD_PATHS = ["/wp-login.php", "/users/7/no-such-thing", "/verify/of/lancelot", "/%22%7D%0Ahourpass"]


@dataclass
class Measured:
    """A service with metrics."""

    process: ForkedProcess
    url: str
    port: int
    others: set[int]  # forked before

    def ask(self, path: str) -> int:
        """On a connection of its own, so that any worker may get it."""
        return httpx.get(f"{self.url}{path}").status_code

    def log_in(self, username: str = ARTHUR["username"], password: str = ARTHUR["password"]) -> str:
        body = {"username": username, "password": password}
        return str(httpx.post(f"{self.url}/token", json=body).json().get("token"))

    def worker_ids(self) -> set[int]:
        return forked_ids() - self.others - {self.process.pid}


@pytest.fixture(scope="module")
def measured(
    sqlite_template: Path,  # noqa: ARG001 - removes the templates in the end
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Measured]:
    port = free_port()
    database = shutil.copy(templates.started_sqlite(), tmp_path_factory.mktemp("metrics"))
    settings = {
        "METRICS_PORT": str(port),
        "SMTP_URL": "smtp+plain://127.0.0.1:1",  # nothing is sent
        "MAIL_FROM": "no-reply@camelot.example",
    }
    others = forked_ids()
    with serving_process(f"sqlite:///{database}", "--workers", "2", **settings) as (process, url):
        yield Measured(process, url, port, others)


def requests(found: Scrape, route: str) -> float:
    return found.total("hourpass_requests_total", route=route)


def checks(found: Scrape, result: str) -> float:
    return found.total("hourpass_token_checks_total", path="/token_status", result=result)


@pytest.fixture(scope="module")
def found(measured: Measured) -> Scrape:
    """The metrics after some requests, which the workers report within a second."""
    for _ in range(20):
        assert measured.ask("/healthz") == 200
    token = measured.log_in()
    with httpx.Client(base_url=measured.url) as client:  # one worker, which caches the token
        for _ in range(3):
            assert client.get(f"/token_status/{token}").status_code == 200
        assert client.get(f"/token_status/{token}x").status_code == 401
    for name in ODD_NAMES:
        measured.log_in(name, name)
    for path in ODD_PATHS:
        assert measured.ask(path) in (401, 404)
    assert measured.ask("/" + "x" * 9_000) == 414
    return scrape_until(
        measured.port,
        lambda found: (
            requests(found, "/healthz") >= 20
            and checks(found, "valid") >= 3
            and checks(found, "invalid") >= 1
            and requests(found, "/verify") >= 1
            and found.total("hourpass_refusals_total", limit="uri_size") >= 1
            and found.total("hourpass_logins_total", result="refused") >= len(ODD_NAMES)
        ),
    )


def test_the_counters_of_both_workers_add_up(found: Scrape) -> None:
    assert found.total("hourpass_workers") == 2
    assert requests(found, "/healthz") == 20
    assert found.total("hourpass_tokens_issued_total", grant="password") == 1


def test_a_check_from_memory_is_counted_with_its_result(found: Scrape) -> None:
    assert (checks(found, "valid"), checks(found, "invalid")) == (3, 1)
    assert found.total("hourpass_token_checks_total", source="memory", result="valid") >= 2


def test_labels_have_nothing_that_a_client_sent(found: Scrape) -> None:
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


def test_every_metric_has_a_description_and_is_there(found: Scrape) -> None:
    described = {
        metric.name: metric.description for metric in (WORKERS, WORKERS_ENDED, *OF_WORKERS)
    }
    # prometheus_client's parser keeps the names of counters without `_total`.
    assert {name: text for name, text in found.descriptions.items() if name in described} == {
        name: text for name, text in described.items() if name in found.descriptions
    }
    assert described.keys() - found.descriptions.keys() <= {"hourpass_refusals"}
    assert all(text.endswith(".") for text in described.values())


def test_rules_and_dashboard_name_metrics_that_are_there(found: Scrape) -> None:
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


def test_the_counters_of_a_killed_worker_stay_and_its_gauges_disappear(measured: Measured) -> None:
    metadata = "/.well-known/oauth-authorization-server"  # which no other test asks for
    for _ in range(10):
        assert measured.ask(metadata) == 200
    before = scrape_until(measured.port, lambda found: requests(found, metadata) == 10)
    ended = before.total("hourpass_workers_ended_total")
    os.kill(min(measured.worker_ids()), signal.SIGKILL)
    after = scrape_until(
        measured.port,
        lambda found: (
            found.total("hourpass_workers_ended_total") == ended + 1
            and found.total("hourpass_workers") == 2
        ),
    )
    assert requests(after, metadata) == 10
    for gauge in ("hourpass_hashing_threads", "hourpass_connections_limit"):
        assert after.total(gauge) == before.total(gauge) > 0


def test_a_restart_keeps_the_counters(measured: Measured) -> None:
    before = scrape(measured.port)
    keys = "/.well-known/jwks.json"  # which no other test asks for
    for _ in range(10):
        assert measured.ask(keys) == 200
    ended = before.total("hourpass_workers_ended_total")
    measured.process.send_signal(signal.SIGHUP)
    after = scrape_until(
        measured.port, lambda found: found.total("hourpass_workers_ended_total") == ended + 2
    )
    assert requests(after, keys) == 10
    assert after.total("hourpass_workers") == 2


def test_one_worker_serves_its_own_metrics(sqlite_template: Path, tmp_path: Path) -> None:
    port = free_port()
    database = shutil.copy(sqlite_template, tmp_path)
    with serving(f"sqlite:///{database}", METRICS_PORT=str(port)):
        found = scrape_until(port, lambda found: requests(found, "/readyz") >= 1)
    assert found.total("hourpass_workers") == 1
    assert not found.has("hourpass_mail_waiting")  # there is no mail server
