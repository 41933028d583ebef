"""Administrators create, change, test and delete webhooks."""

import asyncio
from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from standardwebhooks.webhooks import Webhook

from app.operations.doctor.webhooks import check_endpoints
from app.security.rate_limits.limits import Rate
from app.settings import Settings
from app.webhooks import service
from app.webhooks.errors import MAX_ENDPOINTS
from app.webhooks.event_types import TYPES
from app.webhooks.schemas import MAX_OVERLAP_SECONDS
from tests.support.apps import context_in, started_client
from tests.support.https_receiver import Receiver, answer
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, assert_problem, bearer, log_in, register
from tests.support.waiting import blocking, until
from tests.support.webhooks import WebhookCalls, send_due


async def test_the_life_of_a_webhook(
    client: AsyncClient, receiver: Receiver, arthurs_token: str
) -> None:
    calls = WebhookCalls(client)
    body = {"url": receiver.url, "types": ["user.deleted", "user.created", "user.created"]}
    response = await client.post("/webhooks", json=body, headers=bearer(arthurs_token))
    assert response.headers["Location"] == "/webhooks/1"
    made = response.json()
    assert made["secret"].startswith("whsec_")
    record = {name: value for name, value in made.items() if name != "secret"}
    assert record == {
        "id": 1,
        "url": receiver.url,
        "types": ["user.created", "user.deleted"],
        "is_enabled": True,
        "disabled_reason": None,
        "failing_since": None,
        "has_previous_secret": False,
        "created_at": record["created_at"],
    }
    assert await calls.call("GET", "/1") == record
    assert await calls.call("GET") == {"webhooks": [record]}
    changed = await calls.call("PATCH", "/1", types=[], url="https://other.camelot.example/")
    assert (changed["types"], changed["url"]) == (list(TYPES), "https://other.camelot.example/")
    assert (await calls.call("PATCH", "/1"))["url"] == "https://other.camelot.example/"
    assert not (await calls.call("PATCH", "/1", is_enabled=False))["is_enabled"]
    rotated = await calls.call("POST", "/1/rotate-secret")
    assert rotated["secret"] != made["secret"]
    assert (await calls.call("DELETE", "/1"))["message"] == "Webhook deleted"
    assert await calls.call("GET") == {"webhooks": []}
    assert (await calls.create(receiver))["id"] == 2  # an id is never used again
    for method, path in (
        ("GET", "/1"),
        ("PATCH", "/1"),
        ("DELETE", "/1"),
        ("POST", "/1/rotate-secret"),
        ("POST", "/1/test"),
        ("POST", "/1/retry"),
        ("GET", "/1/deliveries"),
    ):
        assert (await calls.call(method, path, status=404))["error"] == "webhook_not_found"


@on_sqlite
async def test_what_administrators_do_is_in_the_audit_log_without_the_path(
    client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    await calls.create(receiver)
    await calls.call("PATCH", "/1", url="https://other.camelot.example/secret", is_enabled=False)
    await calls.call("PATCH", "/1", types=["user.created"])
    await calls.call("PATCH", "/1", types=["user.created"])  # no change
    await calls.call("POST", "/1/rotate-secret")
    await calls.call("DELETE", "/1")
    headers = bearer(await log_in(client, ARTHUR))
    entries = (await client.get("/audit?action=webhook.", headers=headers)).json()["entries"]
    found = [(it["action"], it["actor_id"], it["details"]) for it in entries[::-1]]
    host = receiver.url.split("/")[2]
    other = "other.camelot.example"
    assert found == [
        ("webhook.create", 1, {"webhook": "1", "host": host}),
        ("webhook.update", 1, {"webhook": "1", "host": other, "enabled": "false"}),
        ("webhook.update", 1, {"webhook": "1", "types": "user.created"}),
        ("webhook.rotate_secret", 1, {"webhook": "1"}),
        ("webhook.delete", 1, {"webhook": "1", "host": other}),
    ]


@on_sqlite
async def test_only_administrators_have_access(client: AsyncClient, receiver: Receiver) -> None:
    await WebhookCalls(client).create(receiver)
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", "/1"),
        ("PATCH", "/1"),
        ("DELETE", "/1"),
        ("POST", "/1/rotate-secret"),
        ("POST", "/1/test"),
        ("POST", "/1/retry"),
        ("GET", "/1/deliveries"),
    ):
        body = None if method == "GET" else {"url": receiver.url} if path == "" else {}
        for headers, status, error in (
            (bearer(token), 403, "insufficient_scope"),
            ({}, 401, "missing_token"),
        ):
            url = f"/webhooks{path}"
            refused = await client.request(method, url, headers=headers, json=body)
            assert_problem(refused, status, error)
    assert receiver.requests == []


@on_sqlite
async def test_errors_name_the_wrong_member(client: AsyncClient, receiver: Receiver) -> None:
    calls = WebhookCalls(client)
    await calls.create(receiver)
    for path, body, field in (
        ("", {"url": "https://user:excalibur@a.example"}, "url"),
        ("", {"url": "https://127.1"}, "url"),
        ("", {"url": "ftp://a.example"}, "url"),
        ("", {"url": "https://a.example/" + "a" * 2000}, "url"),
        ("", {}, "url"),
        ("", {"url": receiver.url, "types": ["user.login"]}, "types"),
        ("", {"url": receiver.url, "secret": "whsec_mine"}, "secret"),
        ("/1/rotate-secret", {"overlap_seconds": -1}, "overlap_seconds"),
        ("/1/rotate-secret", {"overlap_seconds": MAX_OVERLAP_SECONDS + 1}, "overlap_seconds"),
        ("/1/retry", {"delivery_id": 0}, "delivery_id"),
    ):
        problem = await calls.call("POST", path, status=422, **body)
        assert [it["field"].split(".")[0] for it in problem["fields"]] == [field], body
        assert "excalibur" not in str(problem)
    problem = await calls.call("PATCH", "/1", status=422, url="https://[::1")
    assert problem["fields"][0]["field"] == "url"
    await calls.call("GET", "/1/deliveries?state=lost", status=422)
    assert (await calls.call("GET", "/1"))["url"] == receiver.url


@on_sqlite
async def test_http_is_refused_unless_networks_are_allowed(
    client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    await WebhookCalls(client).call("POST", status=201, url="http://127.0.0.1/hook")
    closed = Settings.model_validate({**settings.model_dump(), "outbound_networks": ()})
    async with started_client(closed, clock) as other:
        problem = await WebhookCalls(other).call("POST", status=422, url="http://127.0.0.1/hook")
    assert problem["fields"] == [{"field": "url", "message": "Must begin with https://"}]


@on_sqlite
async def test_the_number_of_webhooks_is_limited(
    client: AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ENDPOINTS", 2)
    calls = WebhookCalls(client)
    for _ in range(2):
        await calls.create(receiver)
    problem = await calls.call("POST", status=409, url=receiver.url)
    assert problem["error"] == "webhook_limit_reached"
    await calls.call("DELETE", "/1")
    await calls.create(receiver)
    assert MAX_ENDPOINTS == 10  # as the description of the call says


@on_sqlite
async def test_deliveries_are_listed_page_by_page(client: AsyncClient, receiver: Receiver) -> None:
    calls = WebhookCalls(client)
    await calls.create(receiver)
    for number in range(3):
        await register(client, {**LANCELOT, "username": f"knight{number}"})
    first = await calls.call("GET", "/1/deliveries?limit=2")
    second = await calls.call("GET", f"/1/deliveries?limit=2&cursor={first['next_cursor']}")
    assert second["next_cursor"] is None
    listed = [*first["deliveries"], *second["deliveries"]]
    assert [it["user_id"] for it in listed] == [2, 3, 4]
    assert listed[0] == {
        "id": 1,
        "message_id": listed[0]["message_id"],
        "type": "user.created",
        "user_id": 2,
        "state": "waiting",
        "attempts": 0,
        "due_at": listed[0]["created_at"],
        "last_status": None,
        "last_error": None,
        "created_at": listed[0]["created_at"],
    }


@on_sqlite
async def test_a_test_message_is_sent_at_once(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await calls.call("PATCH", "/1", is_enabled=False)
    receiver.answers = [answer(200), answer(500)]
    assert await calls.call("POST", "/1/test") == {
        "is_delivered": True,
        "status": 200,
        "reason": None,
    }
    (request,) = receiver.requests
    message = Webhook(webhook["secret"]).verify(request.body, request.headers)
    assert (message["type"], message["data"]) == ("webhook.test", {})
    assert await calls.call("POST", "/1/test") == {
        "is_delivered": False,
        "status": 500,
        "reason": None,
    }
    app.state.services.webhook_sender.http = receiver.client(networks="")
    assert await calls.call("POST", "/1/test") == {
        "is_delivered": False,
        "status": None,
        "reason": "address_not_allowed",
    }
    assert await calls.deliveries(1) == []
    found = await calls.call("GET", "/1")
    assert (found["failing_since"], found["is_enabled"]) == (None, False)


@on_sqlite
async def test_test_messages_have_a_limit(
    client: AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WEBHOOK_TEST", Rate(2, timedelta(minutes=1)))
    calls = WebhookCalls(client)
    await calls.create(receiver)
    for _ in range(2):
        await calls.call("POST", "/1/test")
    await calls.call("POST", "/1/test", status=429)
    assert len(receiver.requests) == 2


async def test_a_webhook_that_is_being_created_counts(
    app: FastAPI, client: AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ENDPOINTS", 1)
    calls, database = WebhookCalls(client), app.state.database
    await calls.call("GET")  # logs in
    async with database.transaction() as session:
        await app.state.services.webhooks.create(context_in(session, app), receiver.url)
        async with blocking(database):
            second = asyncio.create_task(calls.call("POST", status=409, url=receiver.url))
    assert (await second)["error"] == "webhook_limit_reached"


@on_sqlite
async def test_a_test_keeps_no_connection_to_the_database_while_it_waits(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    await calls.create(receiver)
    receiver.is_free.clear()
    waiting = asyncio.create_task(calls.call("POST", "/1/test"))
    await until(lambda: bool(receiver.requests))
    pool = app.state.database.engine.pool
    await until(lambda: pool.checkedout() == 0)  # a background job may have one for a moment
    receiver.is_free.set()
    assert (await waiting)["is_delivered"]


@on_sqlite
async def test_what_doctor_finds(app: FastAPI, client: AsyncClient, receiver: Receiver) -> None:
    async def found() -> list[tuple[str, str]]:
        async with app.state.database.session() as session:
            return [(it.state, it.text) async for it in check_endpoints(session)]

    calls = WebhookCalls(client)
    assert await found() == [("ok", "There are none.")]
    await calls.create(receiver, "user.created")
    await calls.create(receiver, "user.enabled")
    assert await found() == [("ok", "2 webhooks.")]
    await register(client, LANCELOT)
    receiver.answers = [answer(500)]
    await send_due(app)
    ((state, text),) = await found()
    assert state == "warning"
    assert text.startswith("The webhook 1 has failed since 2")
    receiver.answers = [answer(410)]
    await register(client, {**LANCELOT, "username": "galahad"})
    await send_due(app)
    disabled, dead = (text for _, text in await found())
    assert disabled.startswith("The webhook 1 was disabled, because it responded with 410.")
    assert dead.startswith("The webhook 1 has 2 dead letters.")
