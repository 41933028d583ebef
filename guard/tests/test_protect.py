"""`guard.protect(app)` protects everything in an app except the paths that are named."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hourpass import Guard, GuardError, User
from hourpass.guard.token_checker import TokenChecker
from hourpass.testing import Issuer, authorization
from tests.support.guards import guard_messages
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
PUBLIC = ["/health", "/docs", "/openapi.json"]
CLOSED = ["/predict", "/mounted/anything", "/files/report.txt", "/plain", "/redoc", "/nowhere"]


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


async def plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


def full_api(directory: Path, **options: Any) -> FastAPI:
    (directory / "report.txt").write_text("figures")
    api = FastAPI(**options)

    @api.get("/predict")
    async def predict(user: Annotated[User, Depends(guard)]) -> str:
        return user.username

    @api.get("/health")
    async def health() -> str:
        return "fine"

    @api.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.user.username)
        await socket.close()

    api.mount("/mounted", Starlette(routes=[Route("/anything", plain)]))
    api.mount("/files", StaticFiles(directory=directory))
    api.add_route("/plain", plain)
    return api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    api = full_api(tmp_path_factory.mktemp("files"))
    guard.protect(api, public=PUBLIC)
    return api


@pytest.fixture(scope="module")
def url(api: FastAPI) -> Iterator[str]:
    with served(api) as url:
        yield url


@pytest.mark.parametrize("path", CLOSED)
def test_everything_in_the_app_needs_a_token(url: str, issuer: Issuer, path: str) -> None:
    assert httpx.get(url + path).status_code == 401
    status = httpx.get(url + path, headers=authorization(issuer.token())).status_code
    assert status == (404 if path == "/nowhere" else 200)


def test_a_websocket_needs_a_token(url: str, issuer: Issuer) -> None:
    address = f"{url.replace('http', 'ws')}/stream"
    with pytest.raises(InvalidStatus, match="401"):
        connect(address)
    with connect(address, additional_headers=authorization(issuer.token())) as socket:
        assert socket.recv() == "lancelot"


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_are_open(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 200


def test_the_openapi_says_which_operations_need_a_token(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    validate(schema)
    assert schema["components"]["securitySchemes"]["Hourpass"]["scheme"] == "bearer"
    assert schema["paths"]["/predict"]["get"]["security"] == [{"Hourpass": []}]
    assert schema["paths"]["/health"]["get"]["security"] == []


def test_a_dependency_does_not_check_again_what_the_middleware_has_checked(
    url: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check = TokenChecker._check_locally

    def note(checker: TokenChecker, token: str, timeout: float) -> Any:
        checked.append(token)
        return check(checker, token, timeout)

    monkeypatch.setattr(TokenChecker, "_check_locally", note)
    assert httpx.get(f"{url}/predict", headers=authorization(issuer.token())).status_code == 200
    assert len(checked) == 1


async def test_a_dependency_on_another_guard_checks_for_itself(issuer: Issuer) -> None:
    other = Guard("https://hourpass.example", audience="other")
    api = FastAPI()
    guard.protect(api)

    @api.get("/")
    async def root(user: Annotated[User, Depends(other)]) -> str:
        return user.username

    issuer.attach(other)
    issuer.attach(guard)
    async with client_of(api) as client:
        assert (await client.get("/", headers=authorization(issuer.token()))).status_code == 401
    other.close()


def client_of(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://api.example")


PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("order", ["before", "after"])
async def test_a_preflight_is_answered_without_a_token(order: str) -> None:
    api = FastAPI()
    if order == "after":
        guard.protect(api)
    api.add_middleware(CORSMiddleware, allow_origins=["https://page.example"], allow_methods="*")
    if order == "before":
        guard.protect(api)
    async with client_of(api) as client:
        assert (await client.options("/", headers=PREFLIGHT)).status_code == 200
        refused = await client.post("/", headers=PREFLIGHT)
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://page.example"


async def test_an_app_of_starlette_is_protected(issuer: Issuer) -> None:
    app = Starlette(routes=[Route("/plain", plain)])
    guard.protect(app)
    async with client_of(app) as client:
        assert (await client.get("/plain")).status_code == 401
        answer = await client.get("/plain", headers=authorization(issuer.token()))
        assert answer.status_code == 200


def test_an_app_that_has_started_cannot_be_protected(api: FastAPI, url: str) -> None:
    assert httpx.get(f"{url}/health").status_code == 200
    with pytest.raises(RuntimeError, match="started"):
        guard.protect(api)


def test_a_misspelt_option_is_an_error() -> None:
    api = FastAPI()
    guard.protect(api, finish=True)  # type: ignore[call-arg] # refused
    with pytest.raises(TypeError, match="finish"):
        api.build_middleware_stack()


@pytest.mark.parametrize("has_mounts", [True, False])
async def test_an_app_wide_dependency_warns_of_what_it_does_not_cover(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, tmp_path: Path, has_mounts: bool
) -> None:
    dependencies = [Depends(guard)]
    inner = APIRouter()
    if has_mounts:
        api = full_api(tmp_path, dependencies=dependencies)
        inner.mount("/inner", Starlette())
    else:
        api = FastAPI(dependencies=dependencies)
        api.add_api_route("/predict", lambda: "42", methods=["GET"])
    inner.add_api_route("/included", lambda: "42", methods=["GET"])
    api.include_router(inner)
    headers = authorization(issuer.token())
    with caplog.at_level(logging.WARNING, "hourpass.guard"):
        async with client_of(api) as client:
            for _ in range(2):
                assert (await client.get("/predict", headers=headers)).status_code == 200
    expected = ["/mounted, /files, /plain, /inner"] if has_mounts else []
    assert guard_messages(caplog) == [
        f"Depends(guard) does not protect {paths}; use guard.protect(app)" for paths in expected
    ]


async def test_a_protected_app_does_not_warn(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    api = full_api(tmp_path, dependencies=[Depends(guard)])
    guard.protect(api)
    async with client_of(api) as client:
        headers = authorization(issuer.token())
        assert (await client.get("/predict", headers=headers)).status_code == 200
    assert guard_messages(caplog) == []


async def test_the_dependency_and_the_middleware_refuse_alike(issuer: Issuer) -> None:
    api, protected = FastAPI(), FastAPI()
    guard.protect(protected)

    @api.get("/")
    async def root(user: Annotated[User, Depends(guard)]) -> str:
        return user.username

    for headers in ({}, authorization(issuer.expired_token())):
        async with client_of(api) as open_client, client_of(protected) as closed_client:
            ours = await open_client.get("/", headers=headers)
            middlewares = await closed_client.get("/", headers=headers)
        assert (ours.status_code, ours.json()) == (401, middlewares.json())
        assert ours.headers["WWW-Authenticate"] == middlewares.headers["WWW-Authenticate"]


async def test_an_apps_own_handler_of_errors_is_used(issuer: Issuer) -> None:
    api = FastAPI(dependencies=[Depends(guard)])
    api.add_api_route("/predict", lambda: "42")

    @api.exception_handler(HTTPException)
    async def handle(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"oops": error.detail}, error.status_code, error.headers)

    async with client_of(api) as client:
        answer = await client.get("/predict", headers=authorization(issuer.expired_token()))
    assert (answer.status_code, answer.json()) == (401, {"oops": "Invalid token"})
    assert answer.headers["WWW-Authenticate"].endswith('error="invalid_token"')


def openai_body(error: GuardError) -> dict[str, Any]:
    return {"error": {"message": str(error), "type": "invalid_request_error", "code": error.code}}


@pytest.mark.parametrize("way", ["middleware", "dependency"])
async def test_the_body_of_a_refusal_can_be_chosen(issuer: Issuer, way: str) -> None:
    openai_guard = Guard("https://hourpass.example", on_refusal=openai_body)
    issuer.attach(openai_guard)
    api = FastAPI(dependencies=[Depends(openai_guard)] if way == "dependency" else [])
    api.add_api_route("/predict", lambda: "42")
    if way == "middleware":
        openai_guard.protect(api)
    async with client_of(api) as client:
        answer = await client.get("/predict", headers=authorization(issuer.forged_token()))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_token"


async def test_a_request_is_refused_even_if_its_body_cannot_be_made(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Guard("https://hourpass.example", on_refusal=lambda error: error)
    issuer.attach(broken)
    api = FastAPI()
    broken.protect(api)
    async with client_of(api) as client:
        answer = await client.get("/predict")
    assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")
    assert guard_messages(caplog) == ["on_refusal raised TypeError"]


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [("text/html,application/xhtml+xml", True), ("application/json", False), ("*/*", False)],
)
async def test_browsers_get_html_if_the_app_wants_it(
    issuer: Issuer, accept: str, is_html: bool
) -> None:
    html_guard = Guard("https://hourpass.example", html_refusals=True)
    issuer.attach(html_guard)
    api = FastAPI()
    html_guard.protect(api)
    async with client_of(api) as client:
        answer = await client.get("/predict", headers={"Accept": accept})
    assert answer.status_code == 401
    assert answer.headers["Content-Type"].startswith("text/html") == is_html
    assert "A bearer token is needed" in answer.text


async def test_an_optional_user_is_none_without_a_token(issuer: Issuer) -> None:
    api = FastAPI()

    @api.get("/")
    async def root(user: Annotated[User | None, Depends(guard.optional)]) -> str:
        return user.username if user else "nobody"

    async with client_of(api) as client:
        assert (await client.get("/")).json() == "nobody"
        headers = authorization(issuer.token())
        assert (await client.get("/", headers=headers)).json() == "lancelot"
        refused = await client.get("/", headers=authorization(issuer.expired_token()))
        assert refused.status_code == 401
        twice = [("Authorization", f"Bearer {issuer.token()}") for _ in range(2)]
        assert (await client.get("/", headers=twice)).status_code == 401


def test_two_guards_in_one_app_have_schemes_of_their_own() -> None:
    partners = Guard("https://partners.example", scheme_name="Partners")
    api = FastAPI()

    @api.get("/ours")
    async def ours(user: Annotated[User, Depends(guard)]) -> str:
        return user.username

    @api.get("/theirs")
    async def theirs(user: Annotated[User, Depends(partners)]) -> str:
        return user.username

    schema = api.openapi()
    assert set(schema["components"]["securitySchemes"]) == {"Hourpass", "Partners"}
    assert schema["paths"]["/theirs"]["get"]["security"] == [{"Partners": []}]
