"""Sessions and their refresh tokens, over HTTP."""

from typing import Any

from httpx import AsyncClient

from tests.support.users import assert_problem, bearer, refresh


async def refreshed(client: AsyncClient, session: dict[str, Any]) -> dict[str, Any]:
    response = await refresh(client, session["refresh_token"])
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def is_over(client: AsyncClient, session: dict[str, Any]) -> bool:
    """Whether a refresh token is rejected."""
    response = await refresh(client, session["refresh_token"])
    if response.status_code == 200:
        return False
    problem = assert_problem(response, 400, "invalid_grant")
    assert problem["message"] == problem["error_description"] == "Invalid refresh token"
    return True


async def sessions_of(client: AsyncClient, token: str, path: str = "/me") -> list[dict[str, Any]]:
    response = await client.get(f"{path}/sessions", headers=bearer(token))
    assert response.status_code == 200, response.text
    listed: list[dict[str, Any]] = response.json()["sessions"]
    return listed
