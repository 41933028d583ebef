"""API keys as rows of the table, for tests that are not about making them."""

from datetime import datetime, timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from app.context import RequestContext
from app.credentials.api_keys.fingerprints import announcement, hash_key
from app.credentials.api_keys.live_keys import LiveKeys
from app.credentials.api_keys.models import ApiKey
from app.database.engine import Database, begin_write
from app.tokens.revocations.service import Revocations
from hourpass.api_keys import generate_key, id_of
from tests.support.waiting import until

EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:hourpass:params:oauth:token-type:api_key",
}


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
