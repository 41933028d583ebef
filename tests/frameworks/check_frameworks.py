"""The recipes of docs/serving-frameworks.md, each with the framework itself and a real service.

`make test-frameworks` installs the frameworks, each in an environment of its own, and runs this
file. An ordinary test run does not collect it.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.settings import ROOT
from tests.support.api_process import running_api
from tests.support.guards import comes_true
from tests.support.processes import environment, free_port
from tests.support.running_service import RunningService, running_service
from tests.support.users import bearer

RECIPES = ROOT / "examples/frameworks"
ENVIRONMENTS = ROOT / ".venv/frameworks"
START_TIMEOUT_SECONDS = 300.0  # Ray starts a cluster

Start = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    path = tmp_path_factory.mktemp("service") / "hourpass.db"
    with running_service(f"sqlite:///{path}") as service:
        yield service


@pytest.fixture
def token(service: RunningService) -> str:
    return service.new_token()


@pytest.fixture
def start(service: RunningService, tmp_path: Path) -> Start:
    """`with start("flask", "gunicorn", "server:app", "--bind", "127.0.0.1:{port}") as client:`."""

    @contextmanager
    def started(
        framework: str, command: str, *arguments: str, ready: str = "/health", **variables: str
    ) -> Iterator[httpx.Client]:
        programs = ENVIRONMENTS / framework / "bin"
        if not programs.exists():
            pytest.skip(f"make test-frameworks FRAMEWORKS={framework} installs it")
        directory = tmp_path / framework
        shutil.copytree(RECIPES / framework, directory, dirs_exist_ok=True)
        port = str(free_port())
        url = f"http://127.0.0.1:{port}"
        filled = [argument.replace("{port}", port) for argument in arguments]
        settings = environment(
            HOURPASS_URL=service.url,
            PYTHONPATH=str(directory),
            **{name: value.replace("{port}", port) for name, value in variables.items()},
        )
        settings["PATH"] = f"{programs}:{settings['PATH']}"
        started = running_api(
            [programs / command, *filled], settings, url + ready, directory, START_TIMEOUT_SECONDS
        )
        with started, httpx.Client(base_url=url, timeout=60) as client:
            yield client

    return started


def is_refused(response: httpx.Response) -> bool:
    return response.status_code == 401 and "WWW-Authenticate" in response.headers


def answers(client: httpx.Client, token: str, path: str, body: object) -> str:
    """Users get a prediction. Others are refused, and identity headers of callers are ignored."""
    arthur = {"X-Auth-Username": "arthur", "X_Auth_Username": "arthur", "Remote-User": "arthur"}
    assert is_refused(client.post(path, json=body, headers=arthur))
    assert is_refused(client.post(path, json=body, headers=bearer(token[:-4] + "AAAA")))
    response = client.post(path, json=body, headers={**bearer(token), **arthur})
    assert response.status_code == 200, response.text
    return response.text


def test_flask(service: RunningService, token: str, start: Start) -> None:
    gunicorn = ("gunicorn", "server:app", "--workers", "2", "--bind", "127.0.0.1:{port}")
    with start("flask", *gunicorn) as client:
        assert answers(client, token, "/predict", {}) == "42 for user1"
        assert client.get("/health").text == "ok"
        service.revoke(token)
        for _ in range(8):  # each worker has a guard of its own
            assert comes_true(lambda: is_refused(client.post("/predict", headers=bearer(token))))


def greeting(client: httpx.Client, token: str, root: str) -> str:
    """As gradio_client does: a call, and then the stream of its events."""
    event = json.loads(answers(client, token, f"{root}/call/greet", {"data": ["Hail"]}))
    path = f"{root}/call/greet/{event['event_id']}"
    assert is_refused(client.get(path))
    return client.get(path, headers=bearer(token)).text


def test_gradio_mounted(token: str, start: Start) -> None:
    with start("gradio", "uvicorn", "server:app", "--port", "{port}") as client:
        assert "Hail, user" in greeting(client, token, "/demo/gradio_api")
        for path in ("/demo/", "/demo/config", "/demo/gradio_api/info", "/docs"):
            assert is_refused(client.get(path))


def test_gradio_launched(token: str, start: Start) -> None:
    variables = {"GRADIO_SERVER_PORT": "{port}", "GRADIO_ANALYTICS_ENABLED": "False"}
    with start("gradio", "python", "launch.py", ready="/", **variables) as client:
        assert "Hail, user" in greeting(client, token, "/gradio_api")
        for path in ("/", "/config", "/gradio_api/info"):
            assert is_refused(client.get(path))


def test_streamlit(service: RunningService, token: str, start: Start) -> None:
    uvicorn = ("uvicorn", "server:app", "--port", "{port}")
    with start("streamlit", *uvicorn, ready="/_stcore/health") as client:
        for path in ("/", "/_stcore/host-config", "/_stcore/script-health-check"):
            assert is_refused(client.get(path))
        url = f"ws{str(client.base_url).removeprefix('http')}/_stcore/stream"
        with pytest.raises(InvalidStatus):
            connect(url)
        with connect(url, additional_headers=bearer(token)) as socket:
            socket.send(b"Z\x00")  # BackMsg(rerun_script=ClientState())
            page = ""
            while "user" not in page:
                page += str(socket.recv(30))
            service.revoke(token)
            with pytest.raises(ConnectionClosed, match="The token was revoked"):
                drain(socket)


def drain(socket: ClientConnection) -> None:
    while True:
        socket.recv(30)


def test_bentoml(token: str, start: Start) -> None:
    bentoml = ("bentoml", "serve", "service:Model", "--host", "127.0.0.1", "--port", "{port}")
    with start("bentoml", *bentoml, ready="/readyz") as client:
        predicted = answers(client, token, "/predict", {"value": 5})
        assert predicted.startswith("0.5 for user")
        assert client.get("/livez").status_code == 200
        for path in ("/metrics", "/docs.json", "/schema.json", "/"):
            assert is_refused(client.get(path))


def test_litserve(token: str, start: Start) -> None:
    with start("litserve", "python", "server.py", "{port}") as client:
        assert "42 for user" in answers(client, token, "/predict", {"value": 5})
        for path in ("/docs", "/info"):
            assert is_refused(client.get(path))


def test_fastmcp(service: RunningService, token: str, start: Start) -> None:
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "check", "version": "1"},
        },
    }
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "whoami"}}
    with start("fastmcp", "uvicorn", "server:app", "--port", "{port}", ready="/mcp") as client:
        client.headers["Accept"] = "application/json, text/event-stream"
        assert is_refused(client.post("/mcp", json=initialize))
        response = client.post("/mcp", json=initialize, headers=bearer(token))
        session = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
        told = client.post("/mcp", json=call, headers={**bearer(token), **session})
        assert '"text":"user' in told.text
        other = bearer(service.new_token())
        assert client.post("/mcp", json=call, headers={**other, **session}).status_code == 404


def test_fastmcp_with_the_verifier(service: RunningService, start: Start) -> None:
    with start("fastmcp", "python", "verifier.py", "{port}", ready="/mcp") as client:
        token = service.new_token()
        assert is_refused(client.post("/mcp", json={}))
        assert client.post("/mcp", json={}, headers=bearer(token)).status_code != 401


MLFLOW_SERVER = ("mlflow", "uvicorn", "--factory", "hourpass.asgi:create_app", "--port", "{port}")


def test_mlflow_scoring(token: str, start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "mlflow"
    shutil.copytree(RECIPES / "mlflow", directory)
    train(directory)
    variables = {
        "HOURPASS_APP": "mlflow.pyfunc.scoring_server.app:app",
        "HOURPASS_PUBLIC_PATHS": "/health /ping",
        "__pyfunc_model_path__": "model",
    }
    with start(*MLFLOW_SERVER, **variables) as client:
        flower = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
        assert json.loads(answers(client, token, "/invocations", flower)) == {"predictions": [0]}
        assert client.get("/ping").status_code == 200
        assert is_refused(client.get("/version"))


def train(directory: Path) -> None:
    python = ENVIRONMENTS / "mlflow/bin/python"
    if not python.exists():
        pytest.skip("make test-frameworks FRAMEWORKS=mlflow installs it")
    asyncio.run(run(python, "train.py", directory))


async def run(program: Path, script: str, directory: Path, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        script,
        cwd=directory,
        env=environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_mlflow_tracking(token: str, start: Start, tmp_path: Path) -> None:
    variables = {
        "HOURPASS_APP": "mlflow.server.fastapi_app:app",
        "HOURPASS_PUBLIC_PATHS": "/health",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
    }
    with start(*MLFLOW_SERVER, **variables) as client:
        for path in ("/", "/api/2.0/mlflow/experiments/search", "/static-files/index.html"):
            assert is_refused(client.get(path))
        name = answers(client, token, "/api/2.0/mlflow/experiments/create", {"name": "iris"})
        assert "experiment_id" in name
        tracked = asyncio.run(
            run(
                ENVIRONMENTS / "mlflow/bin/python",
                "track.py",
                RECIPES / "mlflow",
                MLFLOW_TRACKING_URI=str(client.base_url),
                MLFLOW_TRACKING_TOKEN=token,
            )
        )
        assert "accuracy: 0.9" in tracked


def test_jupyter(service: RunningService, token: str, start: Start) -> None:
    config = ("--config", "jupyter_server_config.py", "--no-browser", "--allow-root")
    with start("jupyter", "jupyter", "server", *config, "--port", "{port}", ready="/api") as client:
        for path in ("/api/contents", "/api/kernels", "/api/terminals", "/files/page"):
            assert client.get(path).status_code == 403 or client.get(path).is_redirect
        assert client.post("/api/kernels", json={}).status_code == 403
        assert client.get("/api/me", headers=bearer(token)).status_code == 403
        user = service.new_user()
        service.command("grant", user["username"], "jupyter")
        token = service.log_in(user)
        identity = client.get("/api/me", headers=bearer(token)).json()["identity"]
        assert identity["username"].startswith("user")
        kernel = client.post("/api/kernels", json={}, headers=bearer(token)).json()
        path = f"/api/kernels/{kernel['id']}/channels"
        url = f"ws{str(client.base_url).removeprefix('http')}{path}"
        with pytest.raises(InvalidStatus):
            connect(url)
        with connect(url, additional_headers=bearer(token)) as socket:
            socket.send(json.dumps(execute_request("print(6 * 7)")))
            output: dict[str, Any] = {}
            while output.get("msg_type") != "stream":
                output = json.loads(socket.recv(60))
        assert output["content"]["text"] == "42\n"


def execute_request(code: str) -> dict[str, Any]:
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1"}
    return {
        "header": {**header, "version": "5.3"},
        "parent_header": {},
        "metadata": {},
        "content": {"code": code, "silent": False},
        "channel": "shell",
    }


def test_ray_serve(token: str, start: Start) -> None:
    """Its proxy answers two of its own paths without a token."""
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with start("ray", "python", "run.py", "{port}", **variables) as client:
        assert answers(client, token, "/predict", {}).startswith('"42 for user')
        for path in ("/docs", "/openapi.json", "/-/nothing"):
            assert is_refused(client.get(path))
        for path in ("/-/healthz", "/-/routes"):
            assert client.get(path).status_code == 200
