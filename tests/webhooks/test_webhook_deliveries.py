"""Each message arrives at least once, however often the receiver or a worker fails. A message that
no try within a day delivers becomes a dead letter.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select, update

from app.database.engine import begin_write
from app.maintenance.retention.service import Retention
from app.outbound_http import client as outbound
from app.settings import Settings
from app.webhooks import outbox, worker
from app.webhooks.models import WebhookDelivery
from app.webhooks.outbox import KEPT_FOR
from app.webhooks.sender import WebhookSender
from app.webhooks.worker import (
    CLAIM_PERIOD,
    DELAYS,
    FAILING_PERIOD,
    JITTER,
    WebhookWorker,
)
from tests.support.https_receiver import Receiver, answer
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, bearer, log_in, register
from tests.support.waiting import until
from tests.support.webhooks import WebhookCalls, send_due, verified, webhook_worker

run = WebhookWorker.run
BAD = answer(500)


async def register_knights(client: AsyncClient, number: int, first: int = 0) -> None:
    for each in range(first, first + number):
        await register(client, {**LANCELOT, "username": f"knight{each}"})


async def rows(app: FastAPI) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(WebhookDelivery)) or 0


def advance(clock: Clock, span: timedelta) -> None:
    """By the span and the longest random delay."""
    clock.advance(span * (1 + JITTER))


async def audited(client: AsyncClient, action: str) -> list[dict[str, Any]]:
    headers = bearer(await log_in(client, ARTHUR))
    answer = await client.get("/audit", params={"action": action}, headers=headers)
    return [entry["details"] for entry in answer.json()["entries"]]


@on_sqlite
async def test_a_message_that_failed_is_sent_again_with_the_same_id(
    app: FastAPI, client: AsyncClient, receiver: Receiver, clock: Clock
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register(client, LANCELOT)
    receiver.answers = [BAD, answer(302, f"Location: {receiver.url}"), b""]
    for delay in (*DELAYS[:3], None):
        await send_due(app)
        if delay:
            (delivery,) = await calls.deliveries(webhook["id"], "waiting")
            assert delivery["last_error" if delivery["attempts"] == 3 else "last_status"]
            clock.advance(delay - timedelta(seconds=1))
            await send_due(app)  # too early
            assert len(receiver.requests) == delivery["attempts"]
            advance(clock, timedelta(seconds=1) + delay)
    assert len(receiver.requests) == 4
    assert await rows(app) == 0
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.headers["webhook-timestamp"] for request in receiver.requests}) == 4
    bodies = {str(verified(request, webhook["secret"])) for request in receiver.requests}
    assert len(bodies) == 1


@on_sqlite
async def test_a_worker_that_dies_between_sending_and_recording_sends_again(
    app: FastAPI, client: AsyncClient, receiver: Receiver, clock: Clock
) -> None:
    await WebhookCalls(client).create(receiver)
    await register(client, LANCELOT)
    receiver.is_free.clear()
    dying = webhook_worker(app)
    running = asyncio.create_task(dying.run_once(asyncio.Event()))
    await until(lambda: bool(receiver.requests))
    for task in (running, *dying._sending):
        task.cancel()
    await asyncio.wait({running, *dying._sending})
    receiver.is_free.set()
    await send_due(app)
    assert len(receiver.requests) == 1  # others must assume that it is still being sent
    clock.advance(CLAIM_PERIOD)
    await send_due(app)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert await rows(app) == 0


def test_a_claim_is_longer_than_a_try() -> None:
    assert CLAIM_PERIOD.total_seconds() > outbound.TIMEOUT_SECONDS + worker.STOP_SECONDS + 20


@on_postgresql
async def test_two_workers_send_each_message_once(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    await WebhookCalls(client).create(receiver)
    await register_knights(client, 3)
    await asyncio.gather(send_due(app), send_due(app))
    await send_due(app)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(ids) == len(set(ids)) == 3
    assert await rows(app) == 0


async def test_a_row_is_claimed_once(app: FastAPI, client: AsyncClient, receiver: Receiver) -> None:
    await WebhookCalls(client).create(receiver)
    await register(client, LANCELOT)
    async with app.state.database.session() as session:
        waiting = await session.scalar(select(WebhookDelivery.id))

    async def claim() -> bool:
        async with app.state.database.session() as session:
            return await webhook_worker(app).claim(session, waiting) is not None

    assert sorted(await asyncio.gather(*(claim() for _ in range(4)))) == [False] * 3 + [True]


@on_sqlite
async def test_a_slow_endpoint_does_not_delay_others(
    app: FastAPI, client: AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_PER_ENDPOINT", 1)
    calls = WebhookCalls(client)
    await calls.call("POST", status=201, url=receiver.url.replace("hook?", "slow?"))
    await calls.call("POST", status=201, url=receiver.url)
    await register_knights(client, 3)
    is_free = asyncio.Event()

    async def respond(writer: asyncio.StreamWriter) -> None:
        if "slow" in receiver.requests[-1].line:
            await is_free.wait()
        writer.write(answer(200))

    receiver.respond = respond
    running = asyncio.create_task(send_due(app))

    def lines(word: str) -> int:
        return sum(word in request.line for request in receiver.requests)

    await until(lambda: lines("/hook?") == 3)
    assert lines("/slow?") == 1
    is_free.set()
    await running
    assert lines("/slow?") == 3
    assert await rows(app) == 0


async def test_a_message_that_fails_for_a_day_becomes_a_dead_letter(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register(client, LANCELOT)
    began = clock.now
    receiver.then = BAD
    for delay in DELAYS:
        await send_due(app)
        advance(clock, delay)
    assert await calls.deliveries(webhook["id"], "dead") == []
    await send_due(app)
    assert timedelta(hours=20) < clock.now - began < timedelta(hours=30)
    assert len(receiver.requests) == len(DELAYS) + 1
    (dead,) = await calls.deliveries(webhook["id"], "dead")
    assert (dead["state"], dead["attempts"], dead["due_at"]) == ("dead", len(DELAYS) + 1, None)
    assert (dead["last_status"], dead["last_error"]) == (500, None)
    assert await calls.deliveries(webhook["id"], "waiting") == []
    assert "Webhook message given up" in caplog.text
    assert receiver.url not in caplog.text
    clock.advance(timedelta(days=1))
    await send_due(app)
    assert len(receiver.requests) == len(DELAYS) + 1
    assert (await calls.call("GET", f"/{webhook['id']}"))["is_enabled"]
    # An administrator can send it again.
    receiver.then = answer(200)
    path = f"/{webhook['id']}/retry"
    assert (await calls.call("POST", path, delivery_id=dead["id"] + 1))["deliveries"] == 0
    assert (await calls.call("POST", path, delivery_id=dead["id"]))["deliveries"] == 1
    assert (await calls.call("POST", path))["deliveries"] == 0
    assert await audited(client, "webhook.retry") == [
        {"webhook": str(webhook["id"]), "deliveries": "1"}
    ]
    await send_due(app)
    assert receiver.requests[-1].headers["webhook-id"] == dead["message_id"]
    assert await rows(app) == 0
    assert (await calls.call("GET", f"/{webhook['id']}"))["failing_since"] is None


@on_sqlite
async def test_an_endpoint_that_is_gone_is_disabled_at_once(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register_knights(client, 3)
    receiver.answers = [answer(410)]
    await send_due(app, webhook_worker(app))
    found = await calls.call("GET", f"/{webhook['id']}")
    assert (found["is_enabled"], found["disabled_reason"]) == (False, "gone")
    assert await audited(client, "webhook.disable") == [
        {"webhook": str(webhook["id"]), "reason": "gone"}
    ]
    await register_knights(client, 1, first=3)
    dead = await calls.deliveries(webhook["id"], "dead")
    assert await calls.deliveries(webhook["id"], "waiting") == []
    assert 1 <= len(dead) <= 3  # two may have been sent at the same time
    await calls.call("POST", f"/{webhook['id']}/retry", status=409)
    changed = await calls.call("PATCH", f"/{webhook['id']}", is_enabled=True)
    assert (changed["is_enabled"], changed["disabled_reason"]) == (True, None)
    retried = await calls.call("POST", f"/{webhook['id']}/retry")
    assert retried["deliveries"] == len(dead)
    await send_due(app)
    assert await rows(app) == 0


@on_sqlite
async def test_an_endpoint_that_fails_for_days_is_disabled(
    app: FastAPI, client: AsyncClient, receiver: Receiver, clock: Clock
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    path = f"/{webhook['id']}"
    receiver.then = BAD
    await register_knights(client, 1)
    await send_due(app)
    assert (await calls.call("GET", path))["failing_since"]
    # After a success, the time begins again.
    clock.advance(FAILING_PERIOD)
    receiver.answers = [answer(200)]
    await send_due(app)
    assert (await calls.call("GET", path))["failing_since"] is None
    await register_knights(client, 1, first=1)
    await send_due(app)
    clock.advance(FAILING_PERIOD - timedelta(minutes=1))
    await register_knights(client, 1, first=2)
    await send_due(app)
    assert (await calls.call("GET", path))["is_enabled"]
    clock.advance(timedelta(minutes=1))
    await send_due(app)
    found = await calls.call("GET", path)
    assert (found["is_enabled"], found["disabled_reason"]) == (False, "failing")
    assert len(await calls.deliveries(webhook["id"], "dead")) == 2
    assert [it["reason"] for it in await audited(client, "webhook.disable")] == ["failing"]


@on_sqlite
async def test_a_stopping_process_leaves_the_message_to_others(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "STOP_SECONDS", 0.1)
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register(client, LANCELOT)
    receiver.is_free.clear()
    stopping = asyncio.Event()
    running = asyncio.create_task(run(webhook_worker(app), stopping))
    await until(lambda: bool(receiver.requests))
    stopping.set()
    async with asyncio.timeout(60):
        await running
    receiver.is_free.set()
    (delivery,) = await calls.deliveries(webhook["id"])
    assert (delivery["attempts"], delivery["last_error"]) == (0, None)
    clock.advance(DELAYS[0])
    await send_due(app)
    assert await rows(app) == 0


@on_sqlite
async def test_an_unexpected_error_does_not_stop_other_messages(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await WebhookCalls(client).create(receiver)
    await register_knights(client, 2)
    real, failures = WebhookSender.send, [LookupError]

    async def send(*given: Any) -> Any:
        if failures:
            raise failures.pop()
        return await real(*given)

    monkeypatch.setattr(WebhookSender, "send", send)
    await send_due(app)
    assert await rows(app) == 1
    clock.advance(DELAYS[0])
    await send_due(app)
    assert await rows(app) == 0


@on_sqlite
async def test_an_address_that_is_no_longer_allowed_gets_no_request(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register(client, LANCELOT)
    app.state.services.webhook_sender.http = receiver.client(networks="")
    await send_due(app)
    (delivery,) = await calls.deliveries(webhook["id"])
    assert delivery["last_error"] == "address_not_allowed"
    assert receiver.connections == 0


async def test_a_deleted_endpoint_gets_no_more_messages(
    app: FastAPI, client: AsyncClient, receiver: Receiver, clock: Clock, settings: Settings
) -> None:
    calls = WebhookCalls(client)
    deleted, other = await calls.create(receiver), await calls.create(receiver)
    await register(client, LANCELOT)
    await calls.call("DELETE", f"/{deleted['id']}")
    assert await rows(app) == 1
    # What was queued at the same moment is not sent, and deleted later.
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(WebhookDelivery).values(endpoint_id=deleted["id"]))
        await session.commit()
    await send_due(app)
    assert receiver.requests == []
    clock.advance(KEPT_FOR)
    assert await Retention(app.state.database, settings).run_once()
    assert await rows(app) == 0
    assert [it["id"] for it in (await calls.call("GET"))["webhooks"]] == [other["id"]]


async def test_dead_letters_are_kept_for_two_weeks_and_limited(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    clock: Clock,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    await register_knights(client, 3)
    await calls.call("PATCH", f"/{webhook['id']}", is_enabled=False)
    await calls.call("PATCH", f"/{webhook['id']}", is_enabled=True)
    await register_knights(client, 1, first=3)
    retention = Retention(app.state.database, settings)
    monkeypatch.setattr("app.maintenance.retention.service.MAX_DEAD_LETTERS", 2)
    assert await retention.run_once()
    dead = [it["user_id"] for it in await calls.deliveries(webhook["id"], "dead")]
    assert dead == [3, 4]
    assert len(await calls.deliveries(webhook["id"], "waiting")) == 1
    clock.advance(KEPT_FOR - timedelta(seconds=1))
    assert await retention.run_once()
    assert await rows(app) == 3
    clock.advance(timedelta(seconds=1))
    assert await retention.run_once()
    assert await rows(app) == 0
    assert sum(DELAYS, timedelta()) * (1 + JITTER) + timedelta(days=7) < KEPT_FOR
    assert outbox.MAX_DEAD_LETTERS == 10_000


@on_sqlite
async def test_the_job_of_the_service_sends_by_itself(
    app: FastAPI, client: AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.outbox.POLL_SECONDS", 0.01)
    await WebhookCalls(client).create(receiver)
    stopping = asyncio.Event()
    running = asyncio.create_task(run(webhook_worker(app), stopping))
    await register(client, LANCELOT)
    await until(lambda: bool(receiver.requests))
    stopping.set()
    await running
    assert await rows(app) == 0
