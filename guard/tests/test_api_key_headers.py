"""Headers other than `Authorization` with an API key, as Anthropic's and Azure's clients send."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from wsgiref.types import StartResponse

import httpx
import pytest
from fastapi import Depends, FastAPI
from openapi_spec_validator import validate

from hourpass import Guard, GuardError, InvalidTokenError, MissingTokenError, User
from hourpass.api_keys import generate_key
from hourpass.guard.bearer import Credentials
from hourpass.testing import Issuer, authorization
from hourpass.wsgi import GuardMiddleware
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]

HEADERS = ("X-API-Key", "api-key")
guard = Guard("https://hourpass.example", api_key_headers=HEADERS)
plain_guard = Guard("https://hourpass.example")
api = FastAPI()


@api.get("/predict")
async def predict(user: Annotated[User, Depends(guard)]) -> int:
    return user.id


@api.get("/train")
async def train(user: Annotated[User, Depends(guard.require("train"))]) -> int:
    return user.id


@api.get("/maybe")
async def maybe(user: Annotated[User | None, Depends(guard.optional)]) -> int:
    return user.id if user else 0


@api.get("/plain")
async def plain(user: Annotated[User, Depends(plain_guard)]) -> int:
    return user.id


async def raw_app(scope: Any, _receive: Any, send: Any) -> None:
    seen.append(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


seen: list[Any] = []


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    hourpass_issuer.attach(plain_guard)
    return hourpass_issuer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(api) as url:
        yield url


KEY, OTHER = generate_key(), generate_key()
TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.AA"
AUTHORIZATION = (b"authorization", f"Bearer {KEY}".encode())


def header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode(), value.encode()


@pytest.mark.parametrize(
    "headers",
    [
        [header("x-api-key", KEY)],
        [header("api-key", KEY)],
        [header("api-key", f" {KEY}\t")],
        [header("x-api-key", KEY), AUTHORIZATION],
        [header("authorization", KEY), header("api-key", KEY)],
        [AUTHORIZATION],
    ],
)
def test_the_key_is_found_in_one_place(headers: list[tuple[bytes, bytes]]) -> None:
    assert guard.get_credential(headers) == KEY


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([header("x-api-key", KEY), header("x-api-key", KEY)], id="twice"),
        pytest.param([header("x-api-key", KEY), header("api-key", KEY)], id="two headers"),
        pytest.param([header("x-api-key", OTHER), AUTHORIZATION], id="another key"),
        pytest.param([header("x-api-key", KEY), header("authorization", TOKEN)], id="a token too"),
        pytest.param([header("x-api-key", KEY), header("authorization", "Basic eA==")], id="Basic"),
        pytest.param([header("x-api-key", KEY), header("authorization", "")], id="an empty one"),
        pytest.param([header("x-api-key", KEY), AUTHORIZATION, AUTHORIZATION], id="several"),
        pytest.param([header("x-api-key", TOKEN)], id="a token where a key belongs"),
        pytest.param([header("x-api-key", f"Bearer {KEY}")], id="with a scheme"),
        pytest.param([header("x-api-key", "")], id="empty"),
        pytest.param([header("x-api-key", ""), AUTHORIZATION], id="empty beside Authorization"),
    ],
)
def test_two_places_that_differ_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """A proxy in front of the app may have checked the other one."""
    with pytest.raises(InvalidTokenError):
        guard.get_credential(headers)


def test_the_headers_are_an_option_with_sensible_names() -> None:
    with pytest.raises(MissingTokenError):
        plain_guard.get_credential([header("x-api-key", KEY)])
    with pytest.raises(TypeError):
        Credentials("x-api-key")
    for name in ("", "x api key", "Authorization", "cookie", "x_api_key", "Host", "x-api-key:"):
        with pytest.raises(ValueError, match="no header for an API key"):
            Guard("https://hourpass.example", api_key_headers=[name])


def test_fastapi_reads_them_and_never_the_query(url: str, issuer: Issuer) -> None:
    key = issuer.api_key("train")
    with httpx.Client(base_url=url) as client:

        def status(path: str, headers: dict[str, str]) -> int:
            return client.get(path, headers=headers).status_code

        for path in ("/predict", "/train", "/maybe"):
            for name in HEADERS:
                response = client.get(path, headers={name: key})
                assert (response.status_code, response.json()) == (200, 1)
            both = {**authorization(key), "x-api-key": key}
            assert status(path, both) == 200
            assert status(path, {**both, "api-key": issuer.api_key()}) == 401
            assert status(path, {**authorization(issuer.token()), "x-api-key": key}) == 401
            assert status(path, {"x-api-key": issuer.token()}) == 401
        assert client.get("/maybe").json() == 0
        assert status("/plain", {"x-api-key": key}) == 401
        for name in ("x-api-key", "api-key", "api_key", "key", "token", "access_token"):
            assert status(f"/predict?{name}={key}", {}) == 401
            assert client.get(f"/maybe?{name}={key}").json() == 0


def test_the_openapi_shows_both_ways() -> None:
    api.openapi_schema = None
    schema = api.openapi()
    validate(schema)
    schemes = schema["components"]["securitySchemes"]
    assert schemes["Hourpass"]["type"] == "http"
    assert {scheme["name"] for scheme in schemes.values() if scheme["type"] == "apiKey"} == {
        "x-api-key",
        "api-key",
    }
    names = [{"Hourpass"}, {"Hourpass-x-api-key"}, {"Hourpass-api-key"}]
    for path in ("/predict", "/train", "/maybe"):
        operation = schema["paths"][path]["get"]
        assert "parameters" not in operation
        if path != "/maybe":
            assert [set(one) for one in operation["security"]] == names
    assert [set(one) for one in schema["paths"]["/plain"]["get"]["security"]] == [{"Hourpass"}]
    protected = FastAPI()
    protected.get("/predict")(lambda: 1)
    guard.protect(protected)
    schema = protected.openapi()
    validate(schema)
    assert [set(one) for one in schema["paths"]["/predict"]["get"]["security"]] == names
    assert schema["components"]["securitySchemes"] == schemes


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_middleware_reads_them_and_leaves_them_to_the_app(
    issuer: Issuer, kind: str
) -> None:
    """As it leaves Authorization."""
    key = issuer.api_key(user_id=7)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def call(*headers: tuple[bytes, bytes], **more: Any) -> None:
        scope = {"type": kind, "path": "/", "method": "GET", "headers": [*headers], **more}
        app = guard.middleware(raw_app, token_in_subprotocol=True)
        await app(scope, asyncio.Queue[Any]().get, send)

    seen.clear()
    await call(header("x-api-key", key))
    [scope] = seen
    assert scope["state"]["user"].id == 7
    assert header("x-api-key", key) in scope["headers"]
    await call(header("x-api-key", key), header("authorization", issuer.token()))
    await call(header("x-api-key", key), subprotocols=["bearer", issuer.token()])
    assert len(seen) == (2 if kind == "http" else 1)  # subprotocols are those of websockets
    if kind == "websocket":
        await call(subprotocols=["bearer", key])
        assert seen[-1]["state"]["user"].id == 7


def test_wsgi_apps_read_them(issuer: Issuer) -> None:
    def app(environ: Any, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["hourpass.user"].username.encode(), environ["HTTP_X_AUTH_KEY_ID"].encode()]

    def answer_to(**headers: str) -> tuple[str, list[bytes]]:
        statuses: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **headers}
        start: Any = lambda status, _headers: statuses.append(status)  # noqa: E731 - one line
        body = GuardMiddleware(app, guard)(environ, start)
        return statuses[0][:3], list(body)

    key = issuer.api_key()
    status, body = answer_to(HTTP_X_API_KEY=key)
    assert (status, body) == ("200", [b"lancelot", key[3:11].encode()])
    assert answer_to(HTTP_X_API_KEY=key, HTTP_AUTHORIZATION=f"Bearer {key}")[0] == "200"
    for headers in (
        {"HTTP_X_API_KEY": key, "HTTP_AUTHORIZATION": issuer.token()},
        {"HTTP_X_API_KEY": f"{key},{key}"},  # as servers join two headers
        {"HTTP_X_API_KEY": key, "HTTP_API_KEY": key},
        {"QUERY_STRING": f"api-key={key}"},
    ):
        assert answer_to(**headers)[0] == "401", headers


def test_a_header_with_other_bytes_is_refused_without_an_error(issuer: Issuer) -> None:
    for value in (b"hp_\xff" + b"0" * 45, b"hp_" + b"\xc3\xa9" * 23, b"\xff"):
        with pytest.raises(GuardError):
            guard.check(guard.get_credential([(b"x-api-key", value)]))
    assert issuer.asked["/token"] == 0
