"""Requests that monitors and guards repeat all the time are logged at level debug, unless they
fail."""

import json

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.http import access_log
from app.http.access_log import request_log
from tests.support.markers import on_sqlite
from tests.support.settings import make_settings

ROUTINE = ("/healthz", "/readyz", "/revocations", "/revocations?wait=1")


async def logged(
    client: AsyncClient, capsys: pytest.CaptureFixture[str], level: str, log_format: str = "json"
) -> str:
    """What the service writes of these requests."""
    settings = make_settings("sqlite:///x.db", log_level=level, log_format=log_format)
    request_log.flush()
    access_log.configure(settings)
    capsys.readouterr()
    for path in ROUTINE:
        assert (await client.get(path)).status_code == 200
        assert (await client.head(path)).status_code == 200
    assert (await client.get("/revocations?wait=-1")).status_code == 422
    assert (await client.get("/")).status_code == 200
    request_log.flush()
    return capsys.readouterr().err


def requests_in(written: str) -> list[dict[str, object]]:
    lines = map(json.loads, written.splitlines())
    return [line for line in lines if line["logger"] == "hourpass.request"]


@on_sqlite
async def test_routine_requests_are_logged_at_level_debug(
    client: AsyncClient, app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    app.state.stopping.set()  # the feed answers at once, whatever `wait` says
    requests = requests_in(await logged(client, capsys, "info"))
    assert [(line["route"], line["status"]) for line in requests] == [
        ("/revocations", 422),
        ("/", 200),
    ]
    requests = requests_in(await logged(client, capsys, "debug"))
    levels = ["debug"] * 2 * len(ROUTINE) + ["info", "info"]
    assert [line["level"] for line in requests] == levels
    text = await logged(client, capsys, "debug", "text")
    assert text.count("DEBUG   request method=HEAD route=/healthz status=200") == 1
    assert text.count("INFO    request method=GET route=/ status=200") == 1
