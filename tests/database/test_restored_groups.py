"""If a failover loses the narrowing of a group, older tokens of the group stay revoked."""

import pytest
from httpx import AsyncClient

from app.settings import Settings
from tests.support.admin_client import AdminClient
from tests.support.apps import started_client
from tests.support.databases import Twin, twin
from tests.support.revocation_feed import answers, lists
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import LANCELOT, claims_of, log_in, register, revoked, token_is_valid

__all__ = ["twin"]


@pytest.fixture
def settings(database_url: str) -> Settings:
    return make_settings(database_url, **ARTHUR_ADMINISTERS, old_guards=False)


async def test_a_lost_narrowing_is_published_again_and_new_tokens_are_valid(
    client: AsyncClient, arthur: AdminClient, twin: Twin, clock: Clock
) -> None:
    user_id = await register(client, LANCELOT)
    for name in ("knights", "squires"):
        await arthur.do("POST", "/groups", {"name": name, "scopes": [name]})
        await arthur.do("PUT", f"/groups/{name}/members/{user_id}")
    token = await log_in(client, LANCELOT)
    narrowed, other = claims_of(token)["grp"]
    twin.copy()
    assert await answers(client, "/readyz", 200)
    await arthur.do("PATCH", "/groups/knights", {"scopes": []})
    assert await lists(client, f"grp:{narrowed}")

    twin.swap()

    async with started_client(make_settings(twin.first_url), clock) as newcomer:
        assert await lists(newcomer, f"grp:{narrowed}")
        assert await revoked(newcomer) == [f"grp:{narrowed}"]
        fresh = await log_in(newcomer, LANCELOT)
        assert claims_of(fresh)["grp"][0] not in (narrowed, other)
        assert claims_of(fresh)["grp"][1] == other
        for each in (newcomer, client):
            assert not await token_is_valid(each, token)
            assert await token_is_valid(each, fresh)
