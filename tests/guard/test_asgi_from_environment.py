"""The guard loaded by a dotted path, with settings from the environment."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from traceback import format_exception
from wsgiref.simple_server import make_server

import httpx
import pytest

from hourpass.environment import PREFIX, ConfigurationError, read
from tests.support.running_service import RunningService
from tests.support.servers import served
from tests.support.users import bearer

pytest_plugins = ["tests.support.service_fixtures"]

URL = {"HOURPASS_URL": "https://hourpass.example"}

API = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def predict(request):
    return PlainTextResponse(request.headers.get("x-auth-username", "nobody"))

app = Starlette(routes=[Route(path, predict) for path in ("/predict", "/health")])

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ.get("HTTP_X_AUTH_USERNAME", "nobody").encode()]
"""


def test_settings() -> None:
    settings = read(
        {
            **URL,
            "HOURPASS_AUDIENCE": "models",
            "HOURPASS_ISSUER": "https://issuer.example",
            "HOURPASS_PUBLIC_PATHS": "/health, /static/* /docs",
        }
    )
    assert str(settings.guard.url) == URL["HOURPASS_URL"]
    assert settings.guard.audience == "models"
    assert settings.guard.issuer == "https://issuer.example"
    assert settings.public_paths == ["/health", "/static/*", "/docs"]


def test_defaults() -> None:
    settings = read({**URL, "HOURPASS_AUDIENCE": ""})
    assert (settings.guard.audience, settings.guard.issuer) == ("ml-api", None)
    assert settings.public_paths == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "HOURPASS_URL is not set"),
        ({"HOURPASS_URL": " "}, "HOURPASS_URL is not set"),
        ({"HOURPASS_URL": "localhost:8000"}, "HOURPASS_URL: The URL of"),
        ({"HOURPASS_URL": "http://[::1"}, "HOURPASS_URL: "),
        ({"HOURPASS_URL": "https://user:hunter2@h.example"}, "HOURPASS_URL: The URL of"),
        ({**URL, "HOURPASS_PUBLIC_PATHS": "health"}, "HOURPASS_PUBLIC_PATHS: a public path is"),
        ({**URL, "HOURPASS_AUDIENC": "x"}, "HOURPASS_AUDIENC .* Did you mean HOURPASS_AUDIENCE"),
        ({**URL, "HOURPASS_PUBLIC": "/x"}, "HOURPASS_PUBLIC .* Did you mean HOURPASS_PUBLIC_PATHS"),
        ({"hourpass_url": "https://h.example"}, "hourpass_url .* Did you mean HOURPASS_URL"),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        read(variables)
    assert "hunter2" not in str(error.value)


def test_other_variables_are_left_alone() -> None:
    """Variables for clients in the same process, and those that Kubernetes creates."""
    names = ("PASSWORD", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP_ADDR")
    read({**URL, **{f"HOURPASS_{name}": "x" for name in names}, "HOURPASSES": "x"})


@pytest.mark.parametrize("app", ["", "ml_api", "ml_api:", "json:nothing"])
def test_the_app_must_exist(app: str) -> None:
    with pytest.raises(ConfigurationError, match="HOURPASS_APP"):
        read({**URL, "HOURPASS_APP": app}).load_app()


@pytest.fixture
def new_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """hourpass.asgi, which reads the environment when it is imported, and the app are imported
    anew, without settings from outside."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    yield
    for name in ("hourpass.asgi", "ml_api"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("new_imports")
def test_a_missing_setting_is_the_last_line_at_start() -> None:
    with pytest.raises(ConfigurationError) as error:
        import_module("hourpass.asgi")
    assert "HOURPASS_URL is not set" in format_exception(error.value)[-1].splitlines()[-1]


@contextmanager
def middleware_by_its_path() -> Iterator[str]:
    """As vLLM does: a class found by its dotted path, given no arguments, on an app that exists."""
    app = import_module("ml_api").app
    module, _, name = "hourpass.asgi.GuardMiddleware".rpartition(".")
    app.add_middleware(getattr(import_module(module), name))
    with served(app) as url:
        yield url


@contextmanager
def asgi_factory() -> Iterator[str]:
    with served("hourpass.asgi:create_app", factory=True) as url:
        yield url


@contextmanager
def wsgi_factory() -> Iterator[str]:
    app = import_module("hourpass.wsgi").create_app()
    with make_server("127.0.0.1", 0, app) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.01)
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.usefixtures("new_imports")
@pytest.mark.parametrize(
    ("serve", "app"),
    [(middleware_by_its_path, ""), (asgi_factory, "ml_api:app"), (wsgi_factory, "ml_api:wsgi")],
    ids=["middleware", "asgi_factory", "wsgi_factory"],
)
def test_the_app_is_protected(
    shared_service: RunningService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[], AbstractContextManager[str]],
    app: str,
) -> None:
    user = shared_service.new_user()
    token = shared_service.log_in(user)
    monkeypatch.setenv("HOURPASS_URL", shared_service.url)
    monkeypatch.setenv("HOURPASS_PUBLIC_PATHS", "/health")
    monkeypatch.setenv("HOURPASS_APP", app)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ml_api.py").write_text(API)
    with serve() as url:
        assert httpx.get(f"{url}/predict").status_code == 401
        response = httpx.get(f"{url}/predict", headers=bearer(token))
        assert (response.status_code, response.text) == (200, user["username"])
        assert httpx.get(f"{url}/health", headers=bearer(token)).text == "nobody"
