"""No statement reads a whole table that grows without limit."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from app.context import RequestContext
from app.credentials.api_keys.service import ApiKeys
from app.database.engine import Database
from app.database.job_lock import LOCK_PERIOD
from app.main import create_app
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.users.service import Users
from app.webhooks.worker import WebhookWorker
from tests.support.apps import client_of
from tests.support.mail_server import deliver, mail_server
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    bearer,
    log_in,
    open_session,
    refresh,
    register,
)

GROWING = {"users", "audit_log", "attempts", "sessions", "revocations", "recovery_codes"}
GROWING |= {"codes", "earlier_code_hashes", "outbox", "second_factors", "api_keys"}
GROWING |= {"group_members", "pending_revocations", "webhook_deliveries"}


@contextmanager
def executed(database: Database) -> Iterator[dict[str, Any]]:
    """The statements that are executed within, each with the parameters of its last execution."""
    statements: dict[str, Any] = {}

    def note(_c: Connection, _k: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            statements[statement] = parameters

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


async def plans(database: Database, statements: dict[str, Any]) -> list[tuple[str, str]]:
    async with database.engine.connect() as connection:
        found = []
        for statement, parameters in statements.items():
            question = f"EXPLAIN QUERY PLAN {statement}"
            rows = (await connection.exec_driver_sql(question, parameters)).all()
            found += [(statement, detail) for *_, detail in rows]
        return found


def is_full_scan(statement: str, plan: str) -> bool:
    """`SCAN x USING INDEX` and a LIMIT in the order of the ids may stop early."""
    scan = re.fullmatch(r"SCAN (\w+)", plan)
    stops = re.search(r"ORDER BY (\w+\.id( DESC)?|pending_revocations\.user_id)\s+LIMIT", statement)
    return scan is not None and scan[1] in GROWING and not stops


# PostgreSQL reads small tables as a whole, whatever indexes they have.
@on_sqlite
async def test_no_statement_scans_a_growing_table(
    app: FastAPI,
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    settings: Settings,
    clock: Clock,
) -> None:
    database: Database = app.state.database
    api_keys: ApiKeys = app.state.services.api_keys
    with executed(database) as statements:
        arthurs = bearer(await log_in(client, ARTHUR))
        lancelot = await register(client, LANCELOT)
        await client.post("/token", json={**LANCELOT, "password": "wrong"})
        opened = await open_session(client, LANCELOT)
        token = (await refresh(client, opened["refresh_token"])).json()["token"]
        for path in ("/me", "/me/audit", "/me/sessions", "/me/second-factor"):
            assert (await client.get(path, headers=bearer(token))).status_code == 200
        for path in ("/users", "/audit", f"/users/{lancelot}", "/revocations"):
            assert (await client.get(path, headers=arthurs)).status_code == 200
        keys = f"/users/{lancelot}/api-keys"
        made = await client.post(keys, json={"name": "batch"}, headers=arthurs)
        key = f"{keys}/{made.json()['id']}"
        for path in (key, keys, f"{keys}?include_ended=1&limit=1"):
            assert (await client.get(path, headers=arthurs)).status_code == 200
        await client.patch(key, json={"scopes": []}, headers=arthurs)
        for act in ("suspend", "resume", "rotate"):
            assert (await client.post(f"{key}/{act}", headers=arthurs)).is_success
        assert (await client.delete(key, headers=arthurs)).status_code == 200
        assert await api_keys.list_of_all_users(context, "", 1)
        body = {"api_keys": True}
        await client.post("/me/logout-everywhere", json=body, headers=bearer(token))
        await client.patch(f"/users/{lancelot}", json={"scopes": ["predict"]}, headers=arthurs)
        await use_groups(client, arthurs, lancelot)
        await client.post("/me/logout-everywhere", headers=arthurs)
        await users.remove(context, lancelot)
        arthurs = bearer(await log_in(client, ARTHUR))
        erased = await client.delete(f"/users/{lancelot}/personal-data", headers=arthurs)
        assert erased.json()["entries"] > 0
        clock.now += 2 * LOCK_PERIOD
        assert await Retention(database, settings).run_once()
    found = await plans(database, statements)
    assert len(statements) > 30
    assert {statement for statement, plan in found if is_full_scan(statement, plan)} == set()


async def use_groups(client: AsyncClient, headers: dict[str, str], user_id: int) -> None:
    for method, path, body in (
        ("POST", "/groups", {"name": "knights", "scopes": ["a", "b"]}),
        ("PUT", f"/groups/knights/members/{user_id}", None),
        ("GET", "/groups/knights/members", None),
        ("GET", f"/users/{user_id}/groups", None),
        ("PATCH", "/groups/knights", {"scopes": ["a", "c"]}),
    ):
        answer = await client.request(method, path, json=body, headers=headers)
        assert answer.is_success, answer.text
    opened = await open_session(client, LANCELOT)
    assert (await refresh(client, opened["refresh_token"])).is_success
    path = f"/groups/knights/members/{user_id}"
    assert (await client.delete(path, headers=headers)).is_success
    assert (await client.delete("/groups/knights", headers=headers)).is_success


@on_sqlite
async def test_no_statement_about_mail_scans_a_growing_table(
    settings: Settings, clock: Clock
) -> None:
    async with mail_server() as mailbox:
        mail = {"smtp_url": mailbox.url, "mail_from": "no-reply@camelot.example"}
        app = create_app(Settings.model_validate({**settings.model_dump(), **mail}), clock, clock)
        async with app.router.lifespan_context(app), client_of(app) as client:
            database: Database = app.state.database
            headers = bearer(await log_in(client, ARTHUR))
            with executed(database) as statements:
                mailbox.answers[LANCELOT["email"]] = "421 Later"
                body = {"email": LANCELOT["email"]}
                invited = await client.post("/invitations", json=body, headers=headers)
                await deliver(app)
                path = f"/invitations/{invited.json()['id']}/resend"
                assert (await client.post(path, headers=headers)).status_code == 200
                mailbox.answers.clear()
                mailbox.answers[GALAHAD["email"]] = "421 Later"
                await client.post("/invitations", json={"email": GALAHAD["email"]}, headers=headers)
                await deliver(app)
                invitation = {**LANCELOT, "invitation": mailbox.last_code()}
                assert (await client.post("/register-user", json=invitation)).status_code == 201
                await client.post("/users/2/password-reset", headers=headers)
                assert (await client.get("/users/2/password-reset", headers=headers)).is_success
            found = await plans(database, statements)
    assert any("outbox.waits_for_server" in statement for statement in statements)
    assert any("earlier_code_hashes" in statement for statement in statements)
    assert {statement for statement, plan in found if is_full_scan(statement, plan)} == set()


@on_sqlite
async def test_no_statement_about_webhooks_scans_a_growing_table(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    database: Database = app.state.database
    services = app.state.services
    worker = WebhookWorker(database, services.webhook_sender, services.events, clock)
    headers = bearer(await log_in(client, ARTHUR))
    with executed(database) as statements:
        body = {"url": "https://localhost/"}  # which is not allowed
        assert (await client.post("/webhooks", json=body, headers=headers)).is_success
        await register(client, LANCELOT)
        while await worker.run_once(asyncio.Event()):
            pass
        for state in ("", "?state=waiting", "?state=dead"):
            path = f"/webhooks/1/deliveries{state}"
            assert (await client.get(path, headers=headers)).is_success
        for is_enabled in (False, True):
            change = {"is_enabled": is_enabled}
            assert (await client.patch("/webhooks/1", json=change, headers=headers)).is_success
        for only in ({}, {"delivery_id": 1}):
            assert (await client.post("/webhooks/1/retry", json=only, headers=headers)).is_success
        assert (await client.delete("/remove-user/2", headers=headers)).is_success
        clock.now += 2 * LOCK_PERIOD
        assert await Retention(database, settings).run_once()
        assert (await client.delete("/webhooks/1", headers=headers)).is_success
    found = await plans(database, statements)
    assert sum("webhook_deliveries" in statement for statement in statements) > 8
    assert {statement for statement, plan in found if is_full_scan(statement, plan)} == set()


@on_sqlite
async def test_the_test_notices_a_full_table_scan(app: FastAPI) -> None:
    database: Database = app.state.database
    with executed(database) as statements:
        async with database.session() as session:
            await session.execute(text("SELECT id FROM users WHERE email = 'x'"))
    found = await plans(database, statements)
    assert [plan for statement, plan in found if is_full_scan(statement, plan)]
