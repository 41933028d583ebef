"""HourpassAuth in httpx2 and in the SDKs of openai and MCP.

Each calls an API behind a guard on a real socket. Its token is revoked in between, so that a client
that does not repeat the refused request fails.

The SDKs take seconds to import, and each test process imports this file, so the tests import them.
"""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import httpx2
import pytest

from hourpass import Guard, HourpassAuth, InvalidTokenError
from tests.support.guards import comes_true, refusal_of
from tests.support.http_clients import Call, ClientService, token_of
from tests.support.servers import INVALID_TOKEN, Answer, Api, always, refuses_the_first, served

pytest_plugins = ["tests.support.client_fixtures"]


def by_httpx2(auth: HourpassAuth, method: str, url: str, **options: Any) -> httpx2.Response:
    with httpx2.Client(auth=auth, follow_redirects=True, verify=False) as client:
        return client.request(method, url, **options)


def by_async_httpx2(auth: HourpassAuth, method: str, url: str, **options: Any) -> httpx2.Response:
    async def call() -> httpx2.Response:
        async with httpx2.AsyncClient(auth=auth, follow_redirects=True, verify=False) as client:
            return await client.request(method, url, **options)

    return asyncio.run(call())


both = pytest.mark.parametrize("call", [by_httpx2, by_async_httpx2])


@both
def test_httpx2_repeats_a_refused_request_with_a_new_token(
    service: ClientService, auth: HourpassAuth, call: Call
) -> None:
    with Api(refuses_the_first(1)) as api:
        files = {"image": ("grail.png", io.BytesIO(b"a cup"), "image/png")}
        answer = call(auth, "POST", api.url, files=files)
    assert answer.status_code == 200
    first, second = api.received
    assert first.body == second.body
    assert b"a cup" in first.body
    assert first.authorization != second.authorization
    assert service.transport.grants() == ["password", "password"]


def test_httpx2_sends_a_streamed_body_once(auth: HourpassAuth) -> None:
    async def pieces() -> Any:
        yield b"told"

    with Api(refuses_the_first(2)) as api:
        assert by_httpx2(auth, "POST", api.url, content=iter([b"told"])).status_code == 401
        assert by_async_httpx2(auth, "POST", api.url, content=pieces()).status_code == 401
    assert [request.body for request in api.received] == [b"told", b"told"]


@both
def test_httpx2_takes_no_token_to_another_origin(auth: HourpassAuth, call: Call) -> None:
    with Api(always(INVALID_TOKEN)) as other:
        elsewhere = Answer(307, {"Location": other.url})
        with Api(always(elsewhere)) as api:
            assert call(auth, "GET", api.url).status_code == 401
    assert [request.authorization for request in other.received] == [None]


class Model(NamedTuple):
    """An API that speaks as OpenAI's, and an MCP server, behind one guard."""

    url: str
    guard: Guard
    auth: HourpassAuth
    service: ClientService

    def revoke_token(self) -> None:
        token = token_of(self.auth)
        self.service.client.post("/revoke", data={"token": token})
        assert comes_true(lambda: refusal_of(self.guard, token) is InvalidTokenError)


@pytest.fixture
def model(service: ClientService, auth: HourpassAuth) -> Iterator[Model]:
    from mcp.server import MCPServer

    mcp_server = MCPServer("grail")

    @mcp_server.tool()
    def predict(petals: int) -> int:
        """Predict."""
        return petals * 2

    mcp_app = mcp_server.streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/chat/completions":
            user = scope["state"]["user"]
            await answer(send, completion(user.username))
        else:
            await mcp_app(scope, receive, send)

    guard = Guard(service.url, clock=ServiceClock(service))
    with guard, served(guard.middleware(app)) as url:
        yield Model(url, guard, auth, service)


class ServiceClock:
    """The service's clock, whose tokens are of another day."""

    def __init__(self, service: ClientService) -> None:
        self._service = service

    def time(self) -> float:
        return self._service.clock().timestamp()

    def monotonic(self) -> float:
        return self.time()


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    kind = "chat.completion"
    return {"id": "1", "object": kind, "created": 0, "model": "grail", "choices": [choice]}


async def answer(send: Callable[[dict[str, Any]], Awaitable[None]], body: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


MESSAGES: Any = [{"role": "user", "content": "Who am I?"}]


def test_openais_client_logs_in_and_repeats(model: Model) -> None:
    from openai import OpenAI

    with OpenAI(
        base_url=f"{model.url}/v1",
        api_key="unused",
        max_retries=0,
        http_client=httpx2.Client(auth=model.auth),
    ) as client:
        for _ in range(2):
            chat = client.chat.completions.create(model="grail", messages=MESSAGES)
            assert chat.choices[0].message.content == model.service.user["username"]
            model.revoke_token()
    assert model.service.transport.grants() == ["password", "password"]


async def test_openais_async_client_takes_the_token_as_its_key(model: Model) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        base_url=f"{model.url}/v1", api_key=model.auth.atoken, max_retries=0
    ) as client:
        for _ in range(2):
            chat = await client.chat.completions.create(model="grail", messages=MESSAGES)
            assert chat.choices[0].message.content == model.service.user["username"]
    assert model.service.transport.grants() == ["password"]


async def test_the_client_of_mcp_logs_in_and_repeats(model: Model) -> None:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with httpx2.AsyncClient(auth=model.auth) as http_client:
        transport = streamable_http_client(f"{model.url}/mcp", http_client=http_client)
        async with Client(transport) as client:
            for petals in (5, 6):
                result = await client.call_tool("predict", {"petals": petals})
                assert result.structured_content == {"result": 2 * petals}
                await asyncio.to_thread(model.revoke_token)
    assert model.service.transport.grants() == ["password"] * 2


def test_a_token_for_a_client_that_takes_a_string(model: Model) -> None:
    token = model.auth.token()
    assert model.guard.check(token).username == model.service.user["username"]
    assert model.auth.token() == token
