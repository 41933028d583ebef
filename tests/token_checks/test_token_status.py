"""A token is valid until it expires or its user is disabled or deleted."""

from datetime import timedelta

import pytest
from httpx import AsyncClient

from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, assert_problem, bearer, log_in, register, token_is_valid


@on_sqlite
async def test_a_token_is_valid_for_exactly_sixty_minutes(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for seconds in (0, 3599):
        clock.advance(timedelta(seconds=seconds))
        response = await client.get(f"/token_status/{token}")
        assert (response.status_code, response.json()) == (200, {"message": "Token is valid"})
    clock.advance(timedelta(seconds=1))
    response = await client.get(f"/token_status/{token}")
    assert assert_problem(response, 401, "invalid_token")["message"] == "Invalid token"
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


async def test_disabling_and_deleting_a_user_revokes_tokens_at_once_and_for_good(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    with subtests.test("disabled and enabled again"):
        token = await log_in(client, LANCELOT)
        for permission in (0, 1):
            response = await client.put(
                f"/toggle-user-permission/{user_id}/{permission}", headers=bearer(arthurs_token)
            )
            assert response.json() == {
                "message": "User permission updated successfully",
                "user_id": user_id,
            }
            assert not await token_is_valid(client, token)
        assert await token_is_valid(client, await log_in(client, LANCELOT))
    with subtests.test("deleted, and another user gets the name but not the id"):
        token = await log_in(client, LANCELOT)
        response = await client.delete(f"/remove-user/{user_id}", headers=bearer(arthurs_token))
        assert (response.status_code, response.json()) == (
            200,
            {"message": "User deleted successfully"},
        )
        assert not await token_is_valid(client, token)
        assert await register(client, LANCELOT) > user_id
        assert not await token_is_valid(client, token)
