"""Tokens and API keys with networks work only from these networks."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any
from wsgiref.types import StartResponse

import pytest
from fastapi import Depends, FastAPI

from hourpass import Guard, InvalidTokenError, User
from hourpass.testing import Issuer
from hourpass.wsgi import GuardMiddleware

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
NETWORKS = ["192.0.2.0/24", "2001:db8::/32", "203.0.113.7/32"]
INSIDE = ["192.0.2.1", "::ffff:192.0.2.255", "2001:db8:1::1", "203.0.113.7"]
OUTSIDE = [
    None,
    "",
    "198.51.100.1",
    "203.0.113.8",
    "::ffff:198.51.100.1",
    "::192.0.2.1",
    "2001:db9::1",
    "fe80::1%eth0",
    "192.0.2.1:80",
    "testclient",
    "/run/app.sock",
]


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


@pytest.fixture(params=["token", "key"])
def credential(request: pytest.FixtureRequest, issuer: Issuer) -> str:
    if request.param == "token":
        return issuer.token(networks=NETWORKS)
    return issuer.api_key(networks=NETWORKS)


def is_accepted(credential: str, address: str | None) -> bool:
    try:
        return guard.check(credential, ip_address=address).id == 1
    except InvalidTokenError as error:
        # A plain 401, which does not tell from where it works.
        return str(error) != "Invalid token"


def test_each_check_compares_the_address_that_it_is_given(credential: str) -> None:
    for _ in range(2):  # the first one, and of a credential that is known
        for inside in INSIDE:
            assert is_accepted(credential, inside), inside
        for outside in OUTSIDE:
            assert not is_accepted(credential, outside), outside
    with pytest.raises(InvalidTokenError):
        guard.check(credential)
    with pytest.raises(InvalidTokenError):
        guard.check_header(f"Bearer {credential}")
    assert guard.check_header(credential, ip_address=INSIDE[0]).id == 1


async def test_the_others_compare_it_too(credential: str) -> None:
    assert (await guard.acheck(credential, ip_address=INSIDE[0])).id == 1
    assert (await guard.acheck_header(credential, ip_address=INSIDE[0])).id == 1
    for refused in (
        guard.acheck(credential, ip_address=OUTSIDE[-1]),
        guard.acheck(credential),
        guard.acheck_header(credential),
        guard.averify(credential),
    ):
        with pytest.raises(InvalidTokenError):
            await refused


def test_a_credential_without_networks_needs_no_address(issuer: Issuer) -> None:
    for free in (issuer.token(), issuer.api_key()):
        assert guard.check(free).id == guard.check(free, ip_address="testclient").id == 1


api = FastAPI()


@api.get("/")
async def predict(user: Annotated[User, Depends(guard)]) -> int:
    return user.id


async def raw_app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("app", [api, guard.middleware(raw_app)], ids=["Depends", "middleware"])
async def test_asgi_apps_compare_the_address_of_the_server(app: Any, credential: str) -> None:
    async def status_for(client: tuple[str, int] | None) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": b"",
            "client": client,
            "headers": [
                (b"authorization", f"Bearer {credential}".encode()),
                (b"x-forwarded-for", b"192.0.2.1"),  # the server's business, if it trusts a proxy
            ],
        }
        await app(scope, asyncio.Queue[Any]().get, send)
        status: int = sent[0]["status"]
        return status

    assert await status_for(("192.0.2.1", 50_000)) == 200
    assert await status_for(("198.51.100.1", 50_000)) == 401
    assert await status_for(None) == 401  # a Unix socket


def test_wsgi_apps_compare_remote_addr(credential: str) -> None:
    def app(_environ: Any, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return []

    def status_for(**address: str) -> str:
        statuses: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "HTTP_AUTHORIZATION": f"Bearer {credential}",
            "HTTP_X_FORWARDED_FOR": "192.0.2.1",
            **address,
        }
        start: Any = lambda status, _headers: statuses.append(status)  # noqa: E731 - one line
        GuardMiddleware(app, guard)(environ, start)
        return statuses[0][:3]

    assert status_for(REMOTE_ADDR="192.0.2.1") == "200"
    assert status_for(REMOTE_ADDR="198.51.100.1") == "401"
    assert status_for(REMOTE_ADDR="") == status_for() == "401"
