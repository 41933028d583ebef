"""The guard loaded by a dotted path, with settings from the environment."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hourpass.environment import ConfigurationError, read
from tests.support.api_process import running_api
from tests.support.processes import environment, free_port
from tests.support.running_service import RunningService
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

# As vLLM does: a class found by its dotted path, given no arguments, on an app that exists.
SERVE_WITH_MIDDLEWARE = """
import sys
from importlib import import_module
import uvicorn
from ml_api import app

module, _, name = "hourpass.asgi.GuardMiddleware".rpartition(".")
app.add_middleware(getattr(import_module(module), name))
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""

SERVE_WSGI = """
import sys
from wsgiref.simple_server import make_server
from hourpass.wsgi import create_app

make_server("127.0.0.1", int(sys.argv[1]), create_app()).serve_forever()
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


def test_a_missing_setting_is_the_last_line_at_start() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import hourpass.asgi"],
        env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", "")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "HOURPASS_URL is not set" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "app"),
    [
        (["-c", SERVE_WITH_MIDDLEWARE], ""),
        (["-m", "uvicorn", "--factory", "hourpass.asgi:create_app", "--port"], "ml_api:app"),
        (["-c", SERVE_WSGI], "ml_api:wsgi"),
    ],
    ids=["middleware", "asgi_factory", "wsgi_factory"],
)
def test_the_app_is_protected(
    shared_service: RunningService, tmp_path: Path, command: list[str], app: str
) -> None:
    user = shared_service.new_user()
    token = shared_service.log_in(user)
    settings = {
        "HOURPASS_URL": shared_service.url,
        "HOURPASS_PUBLIC_PATHS": "/health",
        "HOURPASS_APP": app,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    (tmp_path / "ml_api.py").write_text(API)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = [sys.executable, *command, str(port)]
    with running_api(started, environment(**settings), f"{url}/health", tmp_path):
        assert httpx.get(f"{url}/predict").status_code == 401
        response = httpx.get(f"{url}/predict", headers=bearer(token))
        assert (response.status_code, response.text) == (200, user["username"])
        assert httpx.get(f"{url}/health", headers=bearer(token)).text == "nobody"
