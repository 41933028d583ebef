"""Spans of OpenTelemetry: what they contain, and what they must not contain."""

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.main import create_app
from app.monitoring.tracing.environment import NOT_INSTALLED, OTHER_PROTOCOL, create_provider
from app.settings import Settings
from tests.support.markers import on_sqlite
from tests.support.service_process import serving
from tests.support.settings import Clock
from tests.support.users import ARTHUR, bearer, log_in

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def app(
    settings: Settings, clock: Clock, exporter: InMemorySpanExporter
) -> AsyncIterator[FastAPI]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(settings, clock, clock, provider)
    async with app.router.lifespan_context(app):
        exporter.clear()
        yield app
    provider.shutdown()


def requests(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


def statements(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]


async def test_a_request_is_a_span_in_the_trace_of_its_client(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    response = await client.post("/token", json=ARTHUR, headers=TRACEPARENT)
    assert response.status_code == 200
    [span] = requests(exporter)
    assert span.name == "POST /token"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/token",
        "http.response.status_code": 200,
    }
    assert format(span.context.trace_id, "032x") == TRACE
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == PARENT
    found = statements(exporter)
    assert {statement.name for statement in found} >= {"SELECT", "INSERT"}
    for statement in found:
        assert statement.parent is not None
        assert statement.parent.span_id == span.context.span_id
        assert statement.attributes is not None
        assert statement.attributes["db.operation.name"] == statement.name
        assert statement.start_time is not None
        assert statement.end_time is not None
        assert statement.start_time <= statement.end_time


@on_sqlite
async def test_a_check_from_memory_is_a_span_too(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    token = await log_in(client, ARTHUR)
    await client.get(f"/token_status/{token}")
    exporter.clear()
    await client.get(f"/token_status/{token}", headers=TRACEPARENT)
    await client.get("/verify/of/lancelot?scope=fly", headers=bearer(token))
    [first, second] = exporter.get_finished_spans()
    assert first.name == "GET /token_status/{token}"
    assert format(first.context.trace_id, "032x") == TRACE
    assert second.name == "GET /verify"
    assert second.attributes is not None
    assert second.attributes["http.response.status_code"] == 403


async def test_no_span_has_a_secret_or_a_name(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    headers = {
        **TRACEPARENT,
        "tracestate": "vendor=of-the-client",
        "baggage": "user=arthur",
        "user-agent": "excalibur",
        "host": "camelot.example",
    }
    answer = await client.post(
        "/token", json={**ARTHUR, "scope": "offline_access"}, headers=headers
    )
    token, refresh_token = answer.json()["token"], answer.json()["refresh_token"]
    await client.get(f"/token_status/{token}", headers=headers)
    await client.get(f"/token_status/{token}x?q=mordred", headers=headers)
    await client.get("/me", headers={**headers, **bearer(token)})
    await client.get("/no/such/mordred?q=mordred", headers=headers)
    await client.request("GUINEVERE", "/token", headers=headers)
    await client.post("/introspect", data={"token": token}, headers=bearer(token))
    await client.patch(
        "/me",
        json={"email": "new@camelot.example", "current_password": ARTHUR["password"]},
        headers=bearer(token),
    )
    spans = exporter.get_finished_spans()
    assert {span.name for span in requests(exporter)} >= {"GET", "GET /me", "POST /introspect"}
    texts = [
        json.dumps([span.name, dict(span.attributes or {}), len(span.events)]) for span in spans
    ]
    for secret in (
        *ARTHUR.values(),
        *(token, token.rpartition(".")[2], refresh_token, "camelot", "excalibur", "mordred"),
        *("GUINEVERE", "arthur", "127.0.0.1", "vendor"),
    ):
        assert [text for text in texts if secret in text] == [], secret
    assert all(not span.events for span in spans)
    allowed = {"http.request.method", "http.route", "http.response.status_code"}
    assert {name for span in requests(exporter) for name in span.attributes or ()} == allowed


@on_sqlite
async def test_an_unexpected_error_has_its_type_and_not_its_text(
    app: FastAPI,
    client: httpx.AsyncClient,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(app.state.grants, "issue", fail)
    assert (await client.post("/token", json=ARTHUR)).status_code == 500
    [span] = requests(exporter)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert span.attributes["http.response.status_code"] == 500
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()


@on_sqlite
async def test_routine_requests_have_no_span(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    for path in ("/healthz", "/readyz", "/revocations"):
        assert (await client.get(path, headers=TRACEPARENT)).status_code == 200
    assert exporter.get_finished_spans() == ()


SWITCHES: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("off by default", {}, False),
    ("empty", {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ("an endpoint", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
    ("of traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
    (
        "disabled",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        False,
    ),
    (
        "no exporter",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
        False,
    ),
)


@pytest.mark.parametrize("from_file", [True, False], ids=["in .env", "in the environment"])
def test_the_standard_variables_switch_traces_on(
    from_file: bool, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    file = tmp_path / "env"
    for name, variables, is_on in SWITCHES:
        lines = [f"{variable}={value}" for variable, value in variables.items()]
        file.write_text("\n".join(lines if from_file else []))
        warnings: list[str] = []
        with subtests.test(name), patch.dict(os.environ, {} if from_file else variables):
            provider = create_provider(file, warnings)
            assert (provider is not None) == is_on
            assert warnings == []
            if provider:
                attributes = provider.resource.attributes
                assert attributes["service.name"] == "hourpass"
                assert "process.command_args" not in attributes


def test_another_protocol_and_a_missing_library_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    warnings: list[str] = []
    assert create_provider(tmp_path / "none", warnings)
    assert warnings == [OTHER_PROTOCOL]
    warnings.clear()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert create_provider(tmp_path / "none", warnings) is None
    assert warnings == [NOT_INSTALLED]


class Collector(BaseHTTPRequestHandler):
    received: list[bytes]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


def test_a_service_sends_its_spans_to_the_collector(sqlite_template: Path, tmp_path: Path) -> None:
    """At the latest when it stops."""
    Collector.received = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        database_url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
        with serving(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as base_url:
            assert httpx.post(f"{base_url}/token", json=ARTHUR).status_code == 401
        collector.shutdown()
    sent = b"".join(Collector.received)
    assert b"POST /token" in sent
    assert b"hourpass" in sent
    assert ARTHUR["password"].encode() not in sent
