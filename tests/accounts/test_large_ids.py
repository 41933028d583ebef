"""Users who were imported with ids of 19 digits, such as snowflakes, work like all others."""

import pytest
from httpx import AsyncClient
from sqlalchemy import insert, select

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.ids import MAX_ID, parse_id
from app.users.models import User
from tests.support.users import ARTHUR, bearer, claims_of, log_in, token_is_valid

SNOWFLAKE = 1_790_000_000_000_000_001
LARGE = {SNOWFLAKE: "snowflake", MAX_ID: "largest"}


async def import_users(context: RequestContext) -> None:
    """With Arthur's password."""
    arthur = await context.session.get_one(User, 1)
    await begin_write(context.session)
    for id_, name in LARGE.items():
        row = {
            "id": id_,
            "username": name,
            "username_folded": name,
            "password_hash": arthur.password_hash,
            "is_admin": False,
            "is_enabled": True,
            "token_version": 1,
            "created_at": context.now,
        }
        await context.session.execute(insert(User).values(row))
    await context.session.commit()


async def test_a_user_with_a_large_id_is_like_any_other(
    client: AsyncClient, context: RequestContext, subtests: pytest.Subtests
) -> None:
    await import_users(context)
    arthurs = bearer(await log_in(client, ARTHUR))
    for id_, name in LARGE.items():
        with subtests.test(name):
            token = await log_in(client, {**ARTHUR, "username": name})
            assert claims_of(token)["sub"] == str(id_)
            assert await token_is_valid(client, token)
            verified = await client.get("/verify", headers=bearer(token))
            assert verified.headers["X-Auth-User-Id"] == str(id_)
            own = await client.get("/me", headers=bearer(token))
            assert own.json()["id"] == id_
            found = await client.get(f"/users/{id_}", headers=arthurs)
            assert found.json()["username"] == name
            path = f"/audit?action=login&subject_id={id_}"
            audited = await client.get(path, headers=arthurs)
            assert [entry["actor_id"] for entry in audited.json()["entries"]] == [id_]
            disabled = await client.put(f"/toggle-user-permission/{id_}/0", headers=arthurs)
            assert disabled.json()["user_id"] == id_
            assert not await token_is_valid(client, token)


async def test_the_list_accepts_its_own_cursors(
    client: AsyncClient, context: RequestContext
) -> None:
    await import_users(context)
    arthurs = bearer(await log_in(client, ARTHUR))
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await client.get(f"/users?limit=1&cursor={cursor}", headers=arthurs)
        assert page.status_code == 200, page.text
        found += [user["id"] for user in page.json()["users"]]
        cursor = page.json()["next_cursor"]
    assert found == list(await context.session.scalars(select(User.id).order_by(User.id)))
    assert found[-2:] == [SNOWFLAKE, MAX_ID]


def test_the_largest_id_is_the_largest_number_of_64_bits() -> None:
    assert parse_id("9223372036854775807") == 2**63 - 1
    assert parse_id("9223372036854775808") is None
    for text in ("", "0", "-1", "01", "+1", "1_0", " 1", "1\n", "\u0661"):
        assert parse_id(text) is None
