"""MCP servers behind the guard, with the SDK's own client over streamable HTTP.

The SDK takes seconds to import, and each test process imports this file, so the tests import it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest
from pydantic import AnyHttpUrl

from hourpass import Guard, ServiceUnavailableError
from hourpass.testing import Issuer, authorization
from tests.support.servers import served

if TYPE_CHECKING:
    from mcp.client import Client
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.mcpserver import MCPServer

    from hourpass.mcp import HourpassTokenVerifier

ISSUER_URL = AnyHttpUrl("https://hourpass.example")
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}

guard = Guard(str(ISSUER_URL))


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


def server_with_tools(
    verifier: "HourpassTokenVerifier | None" = None, auth: "AuthSettings | None" = None
) -> "MCPServer":
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("tools", token_verifier=verifier, auth=auth)

    @server.tool()
    def whoami() -> str:
        token = get_access_token()
        return f"{token.subject} {token.scopes}" if token else "nobody"

    return server


def app_in_middleware() -> Any:
    from hourpass.mcp import UserContext

    return guard.middleware(UserContext(server_with_tools().streamable_http_app()))


def app_with_verifier() -> Any:
    from mcp.server.auth.settings import AuthSettings

    from hourpass.mcp import HourpassTokenVerifier

    auth = AuthSettings(
        issuer_url=ISSUER_URL,
        resource_server_url=AnyHttpUrl("http://127.0.0.1:9000/mcp"),
        validate_token_resource=False,  # the guard checks the audience
    )
    verifier = HourpassTokenVerifier(guard)
    return server_with_tools(verifier, auth).streamable_http_app()


@pytest.fixture(scope="module", params=[app_in_middleware, app_with_verifier])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with served(request.param()) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@asynccontextmanager
async def mcp_client(url: str, token: str) -> AsyncIterator["Client"]:
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers=authorization(token)) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        yield client


class RawClient:
    """Chooses the session and the token of each request by itself."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http = http
        self._url = url

    def request(
        self, token: str, message: Any, session: str = "", method: str = "POST"
    ) -> httpx.Response:
        headers = {"Accept": "application/json, text/event-stream", **authorization(token)}
        if session:
            headers["Mcp-Session-Id"] = session
        return self._http.request(method, self._url, json=message, headers=headers)

    def begin_session(self, token: str) -> str:
        response = self.request(token, INITIALIZE)
        assert response.status_code == 200
        session: str = response.headers["Mcp-Session-Id"]
        return session


@pytest.fixture
def client(http: httpx.Client, url: str) -> RawClient:
    return RawClient(http, url)


def test_the_middleware_alone_binds_sessions(http: httpx.Client, issuer: Issuer) -> None:
    with served(guard.middleware(server_with_tools().streamable_http_app())) as url:
        client = RawClient(http, f"{url}/mcp")
        session = client.begin_session(issuer.token(user_id=1))
        assert client.request(issuer.token(user_id=2), LIST_TOOLS, session).status_code == 404
        assert client.request(issuer.token(user_id=1), LIST_TOOLS, session).status_code == 200


async def test_tools_know_the_user(url: str, issuer: Issuer) -> None:
    async with mcp_client(url, issuer.token("predict", user_id=7)) as client:
        result = await client.call_tool("whoami", {})
    assert result.structured_content == {"result": "7 ['predict']"}


async def test_each_request_has_its_own_user(url: str, issuer: Issuer) -> None:
    tokens = [issuer.token(user_id=number) for number in (1, 2)]
    async with mcp_client(url, tokens[0]) as first, mcp_client(url, tokens[1]) as second:
        results = [await client.call_tool("whoami", {}) for client in (first, second, first)]
    assert [result.structured_content for result in results] == [
        {"result": f"{number} []"} for number in (1, 2, 1)
    ]


@pytest.mark.parametrize("kind", ["expired_token", "revoked_token", "forged_token"])
def test_no_session_begins_without_a_valid_token(
    client: RawClient, issuer: Issuer, kind: str
) -> None:
    response = client.request(getattr(issuer, kind)(), INITIALIZE)
    assert response.status_code == 401
    assert "Mcp-Session-Id" not in response.headers


def test_another_user_cannot_continue_a_session(client: RawClient, issuer: Issuer) -> None:
    mine, theirs = issuer.token(user_id=1), issuer.token(user_id=2)
    session = client.begin_session(mine)
    assert client.request(theirs, LIST_TOOLS, session).status_code == 404
    assert client.request(theirs, None, session, "GET").status_code == 404
    assert client.request(theirs, None, session, "DELETE").status_code == 404
    assert client.request(mine, LIST_TOOLS, session).status_code == 200


def test_a_renewed_token_continues_the_session(client: RawClient, issuer: Issuer) -> None:
    session = client.begin_session(issuer.token("predict", user_id=1))
    renewed = issuer.token(user_id=1, username="renamed")
    assert client.request(renewed, LIST_TOOLS, session).status_code == 200


def test_a_revoked_token_ends_the_session(client: RawClient, issuer: Issuer) -> None:
    token = issuer.token()
    session = client.begin_session(token)
    issuer.revoke(token)
    assert client.request(token, LIST_TOOLS, session).status_code == 401


async def test_an_outage_is_no_invalid_token(issuer: Issuer) -> None:
    from hourpass.mcp import HourpassTokenVerifier

    guard.start()
    with issuer.outage(), pytest.raises(ServiceUnavailableError):
        await HourpassTokenVerifier(guard).verify_token(issuer.token())
