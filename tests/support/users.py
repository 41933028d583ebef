"""King Arthur's court, and what its members do over HTTP."""

import asyncio
import base64
import json
from typing import Any

from httpx import AsyncClient, Response

ARTHUR = {
    "username": "arthur",  # the administrator
    "password": "once and future king",
    "email": "arthur@camelot.example",
}
LANCELOT = {
    "username": "lancelot",
    "password": "knight of the cart",
    "email": "lancelot@camelot.example",
}
GALAHAD = {
    "username": "galahad",
    "password": "the siege perilous",
    "email": "galahad@camelot.example",
}

Person = dict[str, str]


async def register(client: AsyncClient, person: Person) -> int:
    response = await client.post("/register-user", json=person)
    assert response.status_code == 201, response.text
    user_id: int = response.json()["user_id"]
    return user_id


async def log_in(client: AsyncClient, person: Person) -> str:
    response = await client.post("/token", json=person)
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


async def open_session(
    client: AsyncClient, person: Person, scope: str = "offline_access"
) -> dict[str, Any]:
    """Log in to stay: the whole answer, refresh token included."""
    response = await client.post("/token", json={**person, "scope": scope})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def renew(client: AsyncClient, refresh_token: str) -> Response:
    grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return await client.post("/token", data=grant)


async def revoked(client: AsyncClient) -> list[str]:
    """What the feed lists, on its first page."""
    response = await client.get("/revocations")
    assert response.status_code == 200, response.text
    return [entry["value"] for entry in response.json()["revocations"]]


async def token_holds(client: AsyncClient, token: str) -> bool:
    response = await client.get(f"/token_status/{token}")
    assert response.status_code in (200, 401), response.text
    return response.status_code == 200


async def comes_to_an_end(client: AsyncClient, token: str) -> bool:
    """Whether the token ends soon: what another process did may take a tenth of a second on
    PostgreSQL to be known everywhere."""
    try:
        async with asyncio.timeout(5):
            while await token_holds(client, token):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_problem(response: Any, status: int, error: str) -> dict[str, Any]:
    """The one shape of every refusal; returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["error"] == error
    assert isinstance(body["message"], str)
    assert body["message"]
    assert set(body) <= {"message", "error", "error_description", "fields", "user_id"}
    return body


def said_in(token: str, segment: int = 1) -> dict[str, Any]:
    """A token's claims, or with segment 0 its header, read without checking anything."""
    text = token.split(".")[segment]
    members: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return members


def all_tokens_like(token: str) -> str:
    """What the feed lists when every token of this one's user and epoch is revoked."""
    claims = said_in(token)
    return f"sub:{claims['sub']}:{claims['epoch']}"


def kid_of(token: str) -> str:
    kid: str = said_in(token, 0)["kid"]
    return kid
