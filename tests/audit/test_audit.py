"""Each action adds one entry, in its own transaction, and nobody can change the entry."""

import json
import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError

from app.audit.models import Entry
from app.audit.service import _FORMER_NAMES
from app.context import RequestContext
from app.credentials.sessions import service as sessions_service
from app.database.engine import Database, begin_write
from app.events import Event, Events, Subscriber
from app.maintenance.retention import service as retention
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.tokens.revocations.models import Feed, Revocation
from tests.support.audit import add_entries, entries_of, service_url
from tests.support.authenticator import enroll, token_with
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.service_process import serving
from tests.support.settings import Clock, make_settings, utc_now
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

__all__ = ["service_url"]

DAY = timedelta(days=1)


@on_sqlite
async def test_each_action_adds_one_entry(client: AsyncClient) -> None:
    arthurs = await log_in(client, ARTHUR)
    arthur = int(claims_of(arthurs)["sub"])
    lancelot = await register(client, LANCELOT)
    await client.post("/token", json={**LANCELOT, "password": "wrong"})
    await client.post("/token", json={"username": "nobody", "password": "wrong"})
    token = await log_in(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await client.delete(f"/me/sessions/{claims_of(session['token'])['sid']}", headers=bearer(token))
    await client.post("/revoke", data={"token": token})
    for permission in (0, 1):
        path = f"/toggle-user-permission/{lancelot}/{permission}"
        await client.put(path, headers=bearer(arthurs))
    await client.post(f"/users/{lancelot}/revoke-tokens", headers=bearer(arthurs))
    await client.delete(f"/remove-user/{lancelot}", headers=bearer(arthurs))
    await client.delete(f"/remove-user/{lancelot}", headers=bearer(arthurs))  # 404: no action
    await client.get("/me", headers=bearer(arthurs))  # reading is none either

    entries = await entries_of(client, arthurs)
    assert [
        (entry["action"], entry["actor_id"], entry["subject_id"], entry["succeeded"])
        for entry in reversed(entries)
    ] == [
        ("user.register", None, arthur, True),
        ("login", arthur, arthur, True),
        ("user.register", None, lancelot, True),
        ("login", None, lancelot, False),
        ("login", None, None, False),
        ("login", lancelot, lancelot, True),
        ("login", lancelot, lancelot, True),
        ("session.open", lancelot, lancelot, True),
        ("session.end", lancelot, lancelot, True),
        ("token.revoke", None, lancelot, True),
        ("user.disable", arthur, lancelot, True),
        ("user.enable", arthur, lancelot, True),
        ("user.revoke_tokens", arthur, lancelot, True),
        ("user.remove", arthur, lancelot, True),
    ]


@on_sqlite
async def test_the_entries_of_a_session_name_it_and_say_why_it_ended(
    client: AsyncClient, arthurs_token: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_service, "MAX_PER_USER", 1)
    await register(client, LANCELOT)
    displaced, copied = [await open_session(client, LANCELOT) for _ in range(2)]
    await refresh(client, copied["refresh_token"])
    clock.advance(timedelta(minutes=2))
    await refresh(client, copied["refresh_token"])
    ended = await open_session(client, LANCELOT)
    await client.post("/revoke", data={"token": ended["refresh_token"]})
    ids = [claims_of(session["token"])["sid"] for session in (displaced, copied, ended)]
    entries = await entries_of(client, arthurs_token, action="session.")
    assert [(entry["action"], entry["details"]) for entry in reversed(entries)] == [
        ("session.open", {"session": ids[0]}),
        ("session.end", {"session": ids[0], "reason": "too many sessions"}),
        ("session.open", {"session": ids[1]}),
        ("session.end", {"session": ids[1], "reason": "refresh token reused"}),
        ("session.open", {"session": ids[2]}),
        ("session.end", {"session": ids[2], "reason": "requested"}),
    ]


@on_sqlite
async def test_invitations_and_password_resets_are_in_the_audit_log(
    client: AsyncClient, arthurs_token: str
) -> None:
    arthur, headers = int(claims_of(arthurs_token)["sub"]), bearer(arthurs_token)
    lancelot = await register(client, LANCELOT)
    invitation = (await client.post("/invitations", json={}, headers=headers)).json()["id"]
    await client.delete(f"/invitations/{invitation}", headers=headers)
    await client.delete(f"/invitations/{invitation}", headers=headers)  # 404: no action
    forced = await client.post(f"/users/{lancelot}/password-reset", headers=headers)
    reset = {"code": forced.json()["code"], "new_password": "guinevere in the garden"}
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200
    entries = await entries_of(client, arthurs_token)
    number = {"invitation": str(invitation)}
    assert [
        (entry["action"], entry["actor_id"], entry["subject_id"], entry["details"])
        for entry in reversed(entries[:4])
    ] == [
        ("invitation.create", arthur, None, number),
        ("invitation.revoke", arthur, None, number),
        ("user.force_reset", arthur, lancelot, {}),
        ("user.reset_password", lancelot, lancelot, {}),
    ]


async def test_an_entry_has_the_time_the_client_and_the_request_id(
    client: AsyncClient, clock: Clock, arthurs_token: str
) -> None:
    headers = {**bearer(arthurs_token), "X-Request-ID": "the-grail", "User-Agent": "héron\t🗡"}
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    await client.post("/me/logout-everywhere", headers=sent)
    token = await log_in(client, ARTHUR)
    (entry,) = await entries_of(client, token, action="user.revoke_tokens")
    assert entry["request_id"] == "the-grail"
    assert entry["address"] == "127.0.0.1"
    assert entry["user_agent"].encode("latin-1").decode() == headers["User-Agent"]
    assert entry["at"] == clock().isoformat().replace("+00:00", "Z")


async def test_a_rolled_back_action_adds_no_entry(client: AsyncClient, arthurs_token: str) -> None:
    await register(client, LANCELOT)
    assert (await client.post("/register-user", json=LANCELOT)).status_code == 409
    assert len(await entries_of(client, arthurs_token, action="user.register")) == 2


async def test_an_action_that_cannot_be_logged_is_not_done(
    app: FastAPI, client: AsyncClient, arthurs_token: str
) -> None:
    async def fail(_: RequestContext, event: Event) -> None:
        raise OSError(event.action)

    events: Events = app.state.services.events
    subscribers = events.subscribers
    events.subscribers = (*subscribers, Subscriber(fail))
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://hourpass.example") as failing:
        assert (await failing.post("/register-user", json=LANCELOT)).status_code >= 500
        assert (await failing.post("/token", json=ARTHUR)).status_code >= 500
    events.subscribers = subscribers
    assert len(await entries_of(client, arthurs_token, action="user.register")) == 1
    assert await register(client, LANCELOT)


@on_sqlite
async def test_the_audit_log_contains_no_secrets(app: FastAPI, client: AsyncClient) -> None:
    await register(client, LANCELOT)
    typo = {"username": LANCELOT["password"], "password": LANCELOT["username"]}
    await client.post("/token", json=typo)
    opened = await open_session(client, LANCELOT)
    renewed = (await refresh(client, opened["refresh_token"])).json()
    await client.post("/revoke", data={"token": renewed["refresh_token"]})
    async with app.state.database.session() as session:
        rows = (await session.execute(select(*Entry.__table__.columns))).all()
    written = "\n".join(map(str, rows))
    secrets = [LANCELOT["password"], LANCELOT["email"], ARTHUR["password"]]
    for answer in (opened, renewed):
        secrets += [answer["token"], answer["refresh_token"], answer["refresh_token"].split("_")[1]]
    assert [secret for secret in secrets if secret in written] == []


async def test_filters(client: AsyncClient, clock: Clock, arthurs_token: str) -> None:
    lancelot = await register(client, LANCELOT)
    clock.now += DAY / 48
    await log_in(client, LANCELOT)
    await client.post("/token", json={**LANCELOT, "password": "wrong"})

    async def count(**query: Any) -> int:
        return len(await entries_of(client, arthurs_token, **query))

    assert await count() == 5
    assert await count(action="user.") == 2
    assert await count(action="login") == 3
    assert await count(action="log") == 0
    assert await count(subject_id=lancelot) == 3
    assert await count(actor_id=lancelot) == 1
    assert await count(succeeded=False) == 1
    assert await count(since=clock().isoformat()) == 2
    assert await count(until=clock().replace(tzinfo=None).isoformat()) == 3
    assert await count(subject_id=lancelot, succeeded=True, limit=1) == 2


IMPOSSIBLE_QUERIES: list[dict[str, Any]] = [
    {"cursor": "0"},
    {"cursor": "x"},
    {"cursor": "9" * 19},
    {"limit": 0},
    {"limit": 201},
    {"action": "user%"},
    {"subject_id": 2**63},
    {"since": "soon"},
]


@on_sqlite
async def test_an_invalid_query_is_rejected(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for query in IMPOSSIBLE_QUERIES:
        with subtests.test(str(query)):
            response = await client.get("/audit", params=query, headers=bearer(arthurs_token))
            (field,) = assert_problem(response, 422, "invalid_request")["fields"]
            assert field["field"] in query


async def test_pages_neither_repeat_nor_skip_entries_while_others_are_added(
    client: AsyncClient, arthurs_token: str
) -> None:
    for _ in range(6):
        await log_in(client, ARTHUR)
    before = [entry["id"] for entry in await entries_of(client, arthurs_token)]
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await client.get("/audit", params=query, headers=bearer(arthurs_token))).json()
        seen += [entry["id"] for entry in page["entries"]]
        await log_in(client, ARTHUR)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == before


async def test_users_see_the_entries_of_their_own_account_without_the_addresses_of_others(
    client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    await register(client, GALAHAD)
    await log_in(client, GALAHAD)
    path = f"/users/{lancelot}/revoke-tokens"
    await client.post(path, headers=bearer(arthurs_token))
    token = await log_in(client, LANCELOT)
    own = (await client.get("/me/audit", headers=bearer(token))).json()
    assert own["next_cursor"] is None
    assert [(entry["action"], entry["address"]) for entry in own["entries"]] == [
        ("login", "127.0.0.1"),
        ("user.revoke_tokens", None),
        ("user.register", "127.0.0.1"),
    ]
    ended = own["entries"][1]
    assert (ended["user_agent"], ended["request_id"]) == (None, None)
    assert_problem(await client.get("/audit", headers=bearer(token)), 403, "insufficient_scope")
    assert (await client.get("/audit")).status_code == 401
    assert (await client.get("/me/audit")).status_code == 401


async def test_the_database_rejects_changes_of_the_audit_log(
    database: Database, clock: Clock, subtests: pytest.Subtests
) -> None:
    await add_entries(database, clock, 1, at=utc_now())  # the triggers allow to delete old ones
    statements = ["UPDATE audit_log SET succeeded = true", "DELETE FROM audit_log"]
    if database.engine.dialect.name == "postgresql":
        statements.append("TRUNCATE audit_log")
    async with database.session() as session:
        before = (await session.scalars(select(Entry.id))).all()
        for statement in statements:
            with subtests.test(statement):
                await begin_write(session)
                with pytest.raises(DBAPIError, match="append-only"):
                    await session.execute(text(statement))
                await session.rollback()
                assert (await session.scalars(select(Entry.id))).all() == before


@pytest.mark.first_start
@on_postgresql
async def test_a_role_that_owns_no_table_is_enough_to_serve(
    service_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now = utc_now()
    first = {"FIRST_ADMIN_USERNAME": "arthur", "FIRST_ADMIN_PASSWORD": ARTHUR["password"]}
    with serving(service_url, **first) as base_url:
        async with AsyncClient(base_url=base_url) as client:
            arthurs = bearer(await log_in(client, ARTHUR))
            lancelot = await register(client, LANCELOT)
            wrong = await client.post("/token", json={**LANCELOT, "password": "wrong"})
            assert wrong.status_code == 401
            session = await open_session(client, LANCELOT)
            assert (await refresh(client, session["refresh_token"])).status_code == 200
            await client.post("/revoke", data={"token": session["token"]})
            assert not await token_is_valid(client, session["token"])
            authenticator = await enroll(client, LANCELOT, clock)
            token = await token_with(client, LANCELOT, authenticator.recovery_codes[0])
            for method, path in [
                ("POST", f"/users/{lancelot}/password-reset"),
                ("PUT", f"/toggle-user-permission/{lancelot}/0"),
                ("DELETE", f"/remove-user/{lancelot}"),
            ]:
                answer = await client.request(method, path, headers=arthurs)
                assert answer.status_code == 200
            assert not await token_is_valid(client, token)
    monkeypatch.setattr(retention, "MAX_ANONYMOUS_FAILURES", 0)
    settings = make_settings(service_url)
    database = Database(settings, clock)
    await add_entries(database, clock, 2, at=clock() - settings.audit_days * DAY)
    await add_entries(database, clock, 2, succeeded=False)
    clock.advance(2 * DAY)
    async with database.session() as session_:  # by whose clock they expire
        await session_.execute(update(Revocation).values(expires_at=utc_now()))
        await session_.commit()
    assert await Retention(database, settings).run_once()
    async with database.session() as session_:
        entries = (await session_.scalars(select(Entry))).all()
        assert all(entry.succeeded and entry.at > clock() - 3 * DAY for entry in entries)
        newest = select(Feed.position).scalar_subquery()  # stays, for the cursors of listeners
        left = select(Revocation).where(Revocation.position != newest)
        assert (await session_.scalars(left)).all() == []
    await database.close()


STATEMENTS_OF_AN_ATTACKER = [
    "UPDATE audit_log SET succeeded = true",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "ALTER TABLE audit_log DISABLE TRIGGER audit_log_rows",
    "ALTER TABLE audit_log RENAME TO forgotten",
    "DROP TABLE audit_log",
    "DROP TRIGGER audit_log_rows ON audit_log",
    "DROP TRIGGER audit_log_truncate ON audit_log",
    "DROP FUNCTION audit_log_keep() CASCADE",
    "CREATE OR REPLACE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE sql RETURN NULL",
    "CREATE RULE forget AS ON INSERT TO audit_log DO INSTEAD NOTHING",
    "CREATE TRIGGER forget BEFORE INSERT ON audit_log EXECUTE FUNCTION audit_log_keep()",
    "SET session_replication_role = replica",
    "CREATE TABLE audit_log_2 (id int)",
    "UPDATE hourpass_version SET version_num = '0001'",
]


@on_postgresql
async def test_that_role_cannot_change_the_audit_log(
    service_url: str, clock: Clock, subtests: pytest.Subtests
) -> None:
    database = Database(make_settings(service_url))
    await add_entries(database, clock, 1, at=utc_now())
    for statement in STATEMENTS_OF_AN_ATTACKER:
        with subtests.test(statement):
            async with database.engine.connect() as connection:
                with pytest.raises(DBAPIError, match=r"denied|append-only|must be owner"):
                    await connection.execute(text(statement))
    await database.close()


@on_postgresql
def test_no_user_agent_prevents_an_action(
    serve: Callable[..., AbstractContextManager[str]],
) -> None:
    """PostgreSQL stores no NUL. The HTTP parser rejects it and other forbidden characters."""
    with serve() as base_url:
        url = httpx.URL(base_url)
        head = (
            b"POST /register-user HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\nUser-Agent: %s\r\n\r\n"
        )
        for user_agent in (b"a\0b", b"\x01\x7f", b"\xff\xfe", b"a\tb", b"x" * 5000):
            body = json.dumps({**LANCELOT, "username": secrets.token_hex(8)}).encode()
            with socket.create_connection((url.host, url.port or 80)) as connection:
                connection.sendall(head % (len(body), user_agent) + body)
                answer = connection.makefile("rb").readline()
            assert answer.split()[1] in (b"201", b"400"), user_agent


async def test_an_action_is_found_by_its_new_and_by_its_former_name(
    client: AsyncClient, database: Database, clock: Clock, arthurs_token: str
) -> None:
    for name, former in _FORMER_NAMES.items():
        await add_entries(database, clock, 1, action=former)
        await add_entries(database, clock, 1, action=name)
        for asked in (name, former, name.partition(".")[0] + ".", former.partition(".")[0] + "."):
            entries = await entries_of(client, arthurs_token, action=asked)
            assert [entry["action"] for entry in entries[:2]] == [name, former], asked


@pytest.mark.first_start
async def test_old_entries_are_deleted_and_failures_of_strangers_are_limited(
    database: Database, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ANONYMOUS_FAILURES", 3)
    await add_entries(database, clock, 2, at=clock() - settings.audit_days * DAY)
    await add_entries(database, clock, 4, at=clock() - settings.audit_days * DAY + DAY / 24)
    await add_entries(database, clock, 7, succeeded=False)
    await add_entries(database, clock, 5, succeeded=False, actor_id=1)
    assert await Retention(database, settings).run_once()
    async with database.session() as session:
        kept = (await session.scalars(select(Entry.id).order_by(Entry.id))).all()
    assert kept == [3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 17, 18]
