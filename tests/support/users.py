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
    """Log in with a refresh token. Returns the whole body."""
    response = await client.post("/token", json={**person, "scope": scope})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refresh(client: AsyncClient, refresh_token: str) -> Response:
    grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return await client.post("/token", data=grant)


async def revoked(client: AsyncClient) -> list[str]:
    """The values on the first page of the feed."""
    response = await client.get("/revocations")
    assert response.status_code == 200, response.text
    return [entry["value"] for entry in response.json()["revocations"]]


async def token_is_valid(client: AsyncClient, token: str) -> bool:
    response = await client.get(f"/token_status/{token}")
    assert response.status_code in (200, 401), response.text
    return response.status_code == 200


async def becomes_invalid(client: AsyncClient, token: str) -> bool:
    """Whether the token becomes invalid soon. On PostgreSQL, other processes may learn of a
    revocation a tenth of a second later."""
    try:
        async with asyncio.timeout(5):
            while await token_is_valid(client, token):
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_problem(response: Any, status: int, error: str) -> dict[str, Any]:
    """All errors have one shape. Returns the body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["error"] == error
    assert isinstance(body["message"], str)
    assert body["message"]
    assert set(body) <= {"message", "error", "error_description", "fields", "user_id"}
    return body


def claims_of(token: str) -> dict[str, Any]:
    """Read without checking anything."""
    return _segment(token, 1)


def header_of(token: str) -> dict[str, Any]:
    return _segment(token, 0)


def _segment(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    members: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return members


def user_revocation(token: str) -> str:
    """The entry of the feed that revokes all tokens of this one's user and `epoch`."""
    claims = claims_of(token)
    return f"sub:{claims['sub']}:{claims['epoch']}"


def kid_of(token: str) -> str:
    kid: str = header_of(token)["kid"]
    return kid


async def refreshed(client: AsyncClient, session: dict[str, Any]) -> str:
    answer = await refresh(client, session["refresh_token"])
    assert answer.status_code == 200, answer.text
    session["refresh_token"] = answer.json()["refresh_token"]
    token: str = answer.json()["token"]
    return token


def scopes_in(token: str) -> set[str]:
    return set(claims_of(token).get("scope", "").split()) - {"offline_access"}
