"""Requests of an administrator."""

from typing import Any

from httpx import AsyncClient, Response

from tests.support.users import bearer


class AdminClient:
    def __init__(self, client: AsyncClient, token: str) -> None:
        self.client = client
        self._headers = bearer(token)

    async def call(self, method: str, path: str, body: object = None) -> Response:
        return await self.client.request(method, path, json=body, headers=self._headers)

    async def do(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Returns the JSON of a response that must be a success."""
        response = await self.call(method, path, body)
        assert response.is_success, response.text
        members: dict[str, Any] = response.json()
        return members
