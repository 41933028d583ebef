"""What owners and administrators do with API keys over HTTP."""

from typing import Any

from httpx import AsyncClient, Response

from tests.support.users import Person, bearer, log_in, revoked


class KeyCalls:
    """The calls of one person, below `/me/api-keys` or the same of another user."""

    def __init__(self, client: AsyncClient, token: str, path: str = "/me/api-keys") -> None:
        self._client = client
        self.headers = bearer(token)
        self._path = path

    async def send(self, method: str, path: str = "", **body: Any) -> Response:
        return await self._client.request(
            method, self._path + path, headers=self.headers, json=body or None
        )

    async def create(self, name: str = "batch", **body: Any) -> dict[str, Any]:
        return answered(await self.send("POST", name=name, **body), 201)

    async def rotate(self, key_id: str, **body: Any) -> dict[str, Any]:
        return answered(await self.send("POST", f"/{key_id}/rotate", **body), 201)

    async def act(self, key_id: str, act: str) -> dict[str, Any]:
        """`suspend` or `resume`."""
        return answered(await self.send("POST", f"/{key_id}/{act}"))

    async def change(self, key_id: str, **body: Any) -> dict[str, Any]:
        return answered(await self.send("PATCH", f"/{key_id}", **body))

    async def revoke(self, key_id: str) -> dict[str, Any]:
        return answered(await self.send("DELETE", f"/{key_id}"))

    async def get(self, key_id: str) -> dict[str, Any]:
        return answered(await self.send("GET", f"/{key_id}"))

    async def names(self, query: str = "") -> list[str]:
        page = answered(await self.send("GET", query))
        return [api_key["name"] for api_key in page["api_keys"]]


async def keys_of(client: AsyncClient, person: Person) -> KeyCalls:
    return KeyCalls(client, await log_in(client, person))


def answered(response: Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def sids_of(client: AsyncClient, key_id: str) -> list[str]:
    """The revoked `sid` values of a key, without their prefix, in the order of the feed."""
    prefix = f"sid:{key_id}."
    return [value for value in await revoked(client) if value.startswith(prefix)]
