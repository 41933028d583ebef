"""Operations queue messages in their transaction, and receivers can verify them."""

import json
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.context import RequestContext
from app.database.engine import begin_write
from app.settings import Settings
from app.users.errors import LastAdminError
from app.users.service import Users
from app.webhooks import outbox
from app.webhooks.event_types import TYPES
from app.webhooks.messages import render
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from tests.support.apps import started_client
from tests.support.authenticator import enroll
from tests.support.https_receiver import Receiver, Request
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, utc_now
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer, log_in, register
from tests.support.webhooks import WebhookCalls, send_due, types, verified


async def waiting(app: FastAPI) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(WebhookDelivery)) or 0


@on_sqlite
async def test_receivers_verify_a_message_with_the_library(
    app: FastAPI, client: AsyncClient, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    secrets = {(await calls.create(receiver))["secret"] for _ in range(2)}
    assert len(secrets) == 2
    user_id = await register(client, LANCELOT)
    await send_due(app)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-id"].startswith("msg_")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    for request in (first, second):
        verifying = [secret for secret in secrets if is_verified(request, secret)]
        assert len(verifying) == 1
        secrets -= {*verifying}
        message = json.loads(request.body)
        assert message == {
            "type": "user.created",
            "timestamp": message["timestamp"],
            "data": {"user_id": user_id, "username": "lancelot"},
        }
        assert message["timestamp"].endswith("Z")
    assert await waiting(app) == 0


def is_verified(request: Request, secret: str) -> bool:
    try:
        Webhook(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


async def do_all(client: AsyncClient, clock: Clock, admin: str) -> None:
    """Do everything that sends a message, to Lancelot and a service account."""
    headers = bearer(admin)
    for path, body in (
        ("/register-user", LANCELOT),
        ("/service-accounts", {"username": "svc-nightly"}),
        ("/token", LANCELOT),
        ("/token", LANCELOT),  # from a known address: no message
        ("/token", {**LANCELOT, "password": "wrong"}),  # no message either
    ):
        await client.post(path, json=body, headers=headers)
    await enroll(client, LANCELOT, clock)
    await client.delete("/users/2/second-factor", headers=headers)
    mine = bearer(await log_in(client, LANCELOT))
    changed = {"password": LANCELOT["password"], "new_password": "joyous gard"}
    assert (await client.post("/me/password", json=changed, headers=mine)).is_success
    for is_enabled in (False, True):
        await client.patch("/users/2", json={"is_enabled": is_enabled}, headers=headers)
    await client.delete("/remove-user/2", headers=headers)


@on_sqlite
async def test_each_event_has_its_type(
    app: FastAPI,
    client: AsyncClient,
    clock: Clock,
    receiver: Receiver,
    arthurs_token: str,
    context: RequestContext,
) -> None:
    webhook = await WebhookCalls(client).create(receiver)
    await do_all(client, clock, arthurs_token)
    kid = await app.state.services.keys.rotate(context)
    await begin_write(context.session)
    await app.state.services.events.publish(context, "key.revoke", None, kid=kid)
    await context.session.commit()
    await send_due(app)
    assert types(receiver) == sorted(
        [*TYPES, "user.created"]
    )  # the second one is the service account
    messages = [verified(request, webhook["secret"]) for request in receiver.requests]
    about_keys = [it["data"] for it in messages if it["type"].startswith("signing_key.")]
    assert about_keys == [{"kid": kid}, {"kid": kid}]
    text = b" ".join(request.body for request in receiver.requests).decode()
    for secret in (*LANCELOT.values(), "joyous gard", "127.0.0.1", "camelot"):
        assert secret == "lancelot" or secret not in text


async def test_the_name_of_a_deleted_user_is_forgotten_in_the_queue(
    app: FastAPI, client: AsyncClient, clock: Clock, receiver: Receiver, arthurs_token: str
) -> None:
    webhook = await WebhookCalls(client).create(receiver)
    galahad = await register(client, LANCELOT) + 1
    assert await register(client, GALAHAD) == galahad
    async with app.state.database.session() as session:
        await begin_write(session)
        (await session.scalars(select(WebhookDelivery))).first().given_up_at = clock()
        await session.commit()
    await client.delete("/remove-user/2", headers=bearer(arthurs_token))
    async with app.state.database.session() as session:
        rows = await session.scalars(select(WebhookDelivery))
        found = sorted((row.type, row.user_id, row.username) for row in rows)
    assert found == [
        ("user.created", 2, None),
        ("user.created", galahad, "galahad"),
        ("user.deleted", 2, None),
    ]
    await send_due(app)
    data = [verified(request, webhook["secret"])["data"] for request in receiver.requests]
    assert {"user_id": 2, "username": None} in data
    assert b"lancelot" not in b" ".join(request.body for request in receiver.requests)


@on_sqlite
async def test_an_operation_that_fails_sends_nothing(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    users: Users,
    context: RequestContext,
) -> None:
    await WebhookCalls(client).create(receiver)

    await begin_write(context.session)
    await app.state.services.events.publish(context, "user.disable", 1)
    assert await context.session.scalar(select(func.count()).select_from(WebhookDelivery)) == 1
    await context.session.rollback()
    with pytest.raises(LastAdminError):
        await users.set_enabled(context, 1, enabled=False)
    assert await waiting(app) == 0
    await register(client, LANCELOT)
    assert (await client.post("/register-user", json=LANCELOT)).status_code == 409
    assert await waiting(app) == 1


@on_sqlite
async def test_endpoints_get_only_their_types(
    app: FastAPI, client: AsyncClient, receiver: Receiver, arthurs_token: str
) -> None:
    calls = WebhookCalls(client)
    created = await calls.create(receiver, "user.created")
    both = await calls.create(receiver, "user.enabled", "user.disabled")
    disabled = await calls.create(receiver)
    await calls.call("PATCH", f"/{disabled['id']}", is_enabled=False)
    await register(client, LANCELOT)
    await client.patch("/users/2", json={"is_enabled": False}, headers=bearer(arthurs_token))
    assert [it["type"] for it in await calls.deliveries(created["id"])] == ["user.created"]
    assert [it["type"] for it in await calls.deliveries(both["id"])] == ["user.disabled"]
    assert await calls.deliveries(disabled["id"]) == []
    await send_due(app)
    assert types(receiver) == ["user.created", "user.disabled"]


@on_sqlite
async def test_a_rotation_signs_with_both_secrets_until_the_overlap_ends(
    app: FastAPI, client: AsyncClient, clock: Clock, receiver: Receiver
) -> None:
    calls = WebhookCalls(client)
    old = await calls.create(receiver)
    path = f"/{old['id']}/rotate-secret"
    new = await calls.call("POST", path, overlap_seconds=600)
    assert new["has_previous_secret"]
    await register(client, LANCELOT)
    await send_due(app)
    for secret in (old["secret"], new["secret"]):
        assert is_verified(receiver.requests[0], secret)
    clock.advance(timedelta(minutes=10))
    await register(client, GALAHAD)
    await send_due(app)
    assert verified(receiver.requests[1], new["secret"])
    with pytest.raises(AssertionError):
        verified(receiver.requests[1], old["secret"])
    assert not (await calls.call("GET", f"/{old['id']}"))["has_previous_secret"]
    newest = await calls.call("POST", path, overlap_seconds=0)
    assert not newest["has_previous_secret"]
    assert (await calls.call("POST", path))["has_previous_secret"]  # a day, by default


@on_sqlite
async def test_secrets_are_stored_encrypted_also_if_secret_key_is_set_later(
    app: FastAPI,
    client: AsyncClient,
    clock: Clock,
    receiver: Receiver,
    settings: Settings,
) -> None:
    calls = WebhookCalls(client)
    webhook = await calls.create(receiver)
    rotated = await calls.call("POST", f"/{webhook['id']}/rotate-secret")
    later = Settings.model_validate(
        {**settings.model_dump(), "secret_key": "the lady of the lake has this key"}
    )
    async with started_client(later, clock):
        pass

    async def stored() -> list[Any]:
        columns = (WebhookEndpoint.secret, WebhookEndpoint.previous_secret)
        async with app.state.database.session() as session:
            return list((await session.execute(select(*columns))).one())

    encrypted = await stored()
    assert all(text.startswith("gAAAA") for text in encrypted)
    async with started_client(later, clock) as other:
        new = await WebhookCalls(other).create(receiver)
    async with app.state.database.session() as session:
        secrets = (await session.scalars(select(WebhookEndpoint.secret))).all()
    assert len(secrets) == 2
    assert not {new["secret"], rotated["secret"]} & set(secrets)


@on_sqlite
async def test_the_queue_of_each_endpoint_is_limited(
    client: AsyncClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 1)
    calls = WebhookCalls(client)
    full = await calls.create(receiver)
    await register(client, LANCELOT)
    free = await calls.create(receiver)
    await register(client, GALAHAD)
    assert len(await calls.deliveries(full["id"])) == len(await calls.deliveries(free["id"])) == 1
    assert "Webhook message discarded: too many wait" in caplog.text
    assert (await client.post("/token", json=ARTHUR)).status_code == 200


@on_sqlite
async def test_the_audit_log_says_that_an_address_was_new(
    client: AsyncClient, arthurs_token: str
) -> None:
    await register(client, LANCELOT)
    for _ in range(2):
        await log_in(client, LANCELOT)
    await client.post("/token", json={**LANCELOT, "password": "wrong"})
    query: dict[str, Any] = {"action": "login", "subject_id": 2}
    answer = await client.get("/audit", params=query, headers=bearer(arthurs_token))
    details = [entry["details"] for entry in answer.json()["entries"]]
    assert details == [{}, {}, {"new_address": "true"}]


def test_bodies_are_json_without_spaces() -> None:
    body = render(
        WebhookDelivery(
            type="user.created",
            user_id=7,
            username="Łancelot\n",
            details="{}",
            created_at=utc_now(),
        )
    )
    assert b": " not in body
    assert json.loads(body)["data"] == {"user_id": 7, "username": "Łancelot\n"}
