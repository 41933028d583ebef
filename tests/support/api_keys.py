"""API keys as rows of the table, for tests that are not about making them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app.context import RequestContext
from app.credentials.api_keys.fingerprints import announcement, hash_key
from app.credentials.api_keys.live_keys import LiveKeys
from app.credentials.api_keys.models import ApiKey
from app.database.engine import Database, begin_write
from app.database.fast_queries import FastQueries
from app.tokens.jwt import AccessTokens
from app.tokens.revocations.service import Revocations
from hourpass import api_keys
from hourpass.api_keys import ID_LENGTH, PREFIX, SECRET_LENGTH, generate_key, id_of
from tests.support.waiting import until

EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:hourpass:params:oauth:token-type:api_key",
}


def forge(key: str) -> str:
    """A key with the same id, another secret and the right checksum."""
    body = key[len(PREFIX) :][:ID_LENGTH] + generate_key()[-SECRET_LENGTH - 6 : -6]
    return f"{PREFIX}{body}{api_keys._checksum(body)}"


def new_row(user_id: int, key: str, now: datetime, **columns: Any) -> ApiKey:
    values = {
        "id": id_of(key),
        "user_id": user_id,
        "name": "notebook",
        "secret_hash": hash_key(key),
        "version": 1,
        "created_at": now,
        "expires_at": now + timedelta(days=90),
    }
    return ApiKey(**values | columns)


async def insert_key(app: FastAPI, user_id: int, **columns: Any) -> str:
    """Make a key as the service does, and return it."""
    key = generate_key()
    database: Database = app.state.database
    revocations: Revocations = app.state.services.revocations
    async with database.session() as session:
        now = app.state.clock()
        await begin_write(session)
        row = new_row(user_id, key, now, **columns)
        session.add(row)
        await session.flush()
        await revocations.publish(RequestContext(session, now), announcement(row.secret_hash))
        await session.commit()
    return key


async def change_key(app: FastAPI, key: str, *, narrows: bool = True, **columns: Any) -> None:
    """Change columns. A change that narrows revokes the tokens of the key's version."""
    database: Database = app.state.database
    revocations: Revocations = app.state.services.revocations
    async with database.session() as session:
        await begin_write(session)
        row = await session.get_one(ApiKey, id_of(key))
        for name, value in columns.items():
            setattr(row, name, value)
        if narrows:
            context = RequestContext(session, app.state.clock())
            await revocations.publish(context, f"sid:{row.id}.{row.version}")
            row.version += 1
        await session.commit()


async def keys_are_loaded(app: FastAPI) -> None:
    """From now on, unknown keys need no query."""
    live_keys: LiveKeys = app.state.live_keys
    await until(lambda: live_keys.is_loaded)


async def exchange(client: httpx.AsyncClient, key: str, **members: str) -> httpx.Response:
    return await client.post("/token", data={**EXCHANGE, "subject_token": key, **members})


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """What requests ask the database about keys and users."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    fast_queries: FastQueries = app.state.database._fast_queries
    fetch = fast_queries.fetch

    async def fetch_noted(sql: str, values: Sequence[Any], *, writes: bool) -> list[Any]:
        found.append(sql)
        return await fetch(sql, values, writes=writes)

    engine = app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_queries, "fetch", fetch_noted)
        yield found
    event.remove(engine, "before_cursor_execute", note)


@contextmanager
def signatures(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The tokens that the service signs."""
    tokens: AccessTokens = app.state.tokens
    signed: list[str] = []
    encode = tokens.encode

    def note(*arguments: Any) -> str:
        signed.append(encode(*arguments))
        return signed[-1]

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode", note)
        yield signed
