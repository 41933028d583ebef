"""The audit log as an administrator reads it, its entries, and a role that cannot change them."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import insert, make_url, text

from app.audit.models import Entry
from app.database.engine import Database, begin_write
from app.settings import ROOT
from tests.support.settings import Clock, make_settings
from tests.support.users import bearer


async def entries_of(client: AsyncClient, token: str, **query: Any) -> list[dict[str, Any]]:
    """Of all pages, the newest first."""
    found: list[dict[str, Any]] = []
    while True:
        response = await client.get("/audit", params=query, headers=bearer(token))
        assert response.status_code == 200, response.text
        found += response.json()["entries"]
        if (cursor := response.json()["next_cursor"]) is None:
            return found
        query["cursor"] = cursor


async def add_entries(database: Database, clock: Clock, count: int, **values: Any) -> None:
    common = {
        "at": clock(),
        "action": "login",
        "actor_id": None,
        "subject_id": None,
        "succeeded": True,
        "ip_address": "",
        "user_agent": "",
        "request_id": None,
        "details": "{}",
    }
    async with database.session() as session:
        await begin_write(session)
        await session.execute(insert(Entry), [{**common, **values}] * count)
        await session.commit()


@pytest.fixture
async def service_url(database_url: str) -> AsyncIterator[str]:
    """For a role with the rights that docs/security.md grants; another one has migrated."""
    document = (ROOT / "docs/security.md").read_text()
    (grants,) = re.findall(r"^```sql\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    owner = Database(make_settings(database_url))
    async with owner.engine.begin() as connection:
        for statement in ("CREATE ROLE hourpass_service LOGIN", *grants.split(";")[:-1]):
            await connection.execute(text(statement))
    url = make_url(database_url).set(username="hourpass_service")
    yield url.render_as_string(hide_password=False)
    async with owner.engine.begin() as connection:
        for statement in ("DROP OWNED BY hourpass_service", "DROP ROLE hourpass_service"):
            await connection.execute(text(statement))
    await owner.close()
