"""A token holds until it expires, or until its user is disabled or removed."""

from datetime import timedelta

from httpx import AsyncClient

from tests.support.settings import Clock
from tests.support.users import LANCELOT, assert_problem, bearer, log_in, register, token_holds


async def test_a_fresh_token_is_valid(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    response = await client.get(f"/token_status/{token}")
    assert (response.status_code, response.json()) == (200, {"message": "Token is valid"})


async def test_a_token_lasts_sixty_minutes_to_the_second(client: AsyncClient, clock: Clock) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    clock.advance(timedelta(seconds=3599))
    assert await token_holds(client, token)
    clock.advance(timedelta(seconds=1))
    response = await client.get(f"/token_status/{token}")
    assert assert_problem(response, 401, "invalid_token")["message"] == "Invalid token"
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


async def test_disabling_ends_tokens_at_once_and_enabling_does_not_revive_them(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for permission in (0, 1):
        response = await client.put(
            f"/toggle-user-permission/{user_id}/{permission}", headers=bearer(arthurs_token)
        )
        assert response.json() == {
            "message": "User permission updated successfully",
            "user_id": user_id,
        }
        assert not await token_holds(client, token)
    assert await token_holds(client, await log_in(client, LANCELOT))


async def test_enabling_an_enabled_user_revokes_no_token(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    await client.put(f"/toggle-user-permission/{user_id}/1", headers=bearer(arthurs_token))
    assert await token_holds(client, token)


async def test_a_removed_users_token_and_id_are_gone_for_good(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    response = await client.delete(f"/remove-user/{user_id}", headers=bearer(arthurs_token))
    assert (response.status_code, response.json()) == (
        200,
        {"message": "User deleted successfully"},
    )
    assert not await token_holds(client, token)
    assert await register(client, LANCELOT) > user_id
    assert not await token_holds(client, token)
