"""API keys in the clients of model APIs: openai, huggingface_hub, MLflow and curl.

They call `examples/openai_compatible`, and the model behind nginx, with keys of a real service.

The SDK takes seconds to import, and each test process imports this file, so the tests import it.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from app.settings import ROOT
from tests.support.api_keys import forge
from tests.support.model_server import Model
from tests.support.processes import environment
from tests.support.proxies import EXAMPLES, gateway
from tests.support.running_service import RunningService
from tests.support.servers import served
from tests.support.users import ARTHUR, bearer

if TYPE_CHECKING:
    from openai.types.chat.chat_completion_chunk import Choice

pytest_plugins = ["tests.support.service_fixtures"]

PAGE = ROOT / "docs/model-clients.md"
LONG = "word " * 60  # 3 seconds of a stream


class Key(NamedTuple):
    """A key, and what its owner does with it over HTTP."""

    text: str
    owner: str
    url: str
    headers: dict[str, str]

    @property
    def id(self) -> str:
        return self.text[3:11]

    def act(self, method: str, path: str = "", **body: Any) -> dict[str, Any]:
        url = f"{self.url}/{self.id}{path}"
        answer = httpx.request(method, url, headers=self.headers, json=body or None)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rotate(self, overlap_seconds: int) -> str:
        text: str = self.act("POST", "/rotate", overlap_seconds=overlap_seconds)["key"]
        return text


@pytest.fixture(scope="module")
def service(shared_service: RunningService) -> RunningService:
    return shared_service


@pytest.fixture(scope="module")
def api(service: RunningService) -> Iterator[str]:
    """The base URL for clients."""
    path = EXAMPLES / "openai_compatible" / "server.py"
    spec = spec_from_file_location("openai_compatible", path)
    assert spec
    assert spec.loader
    server = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOURPASS_URL", service.url)
        spec.loader.exec_module(server)
    with served(server.app) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def admin(service: RunningService) -> dict[str, str]:
    return bearer(service.log_in(ARTHUR))


@pytest.fixture
def key(service: RunningService, admin: dict[str, str]) -> Key:
    """The key may use some models. Its owner may use all."""
    return new_key(service, admin)


def new_key(service: RunningService, admin: dict[str, str]) -> Key:
    user = service.new_user()
    scopes = {"scopes": ["predict:*", "train"]}
    service._call("PATCH", f"/users/{user['id']}", json=scopes, headers=admin)
    headers = bearer(service.log_in(user))
    new = {"name": "notebook", "scopes": ["predict:fraud-*"]}
    created = service._call("POST", "/me/api-keys", 201, json=new, headers=headers)
    return Key(created["key"], user["username"], f"{service.url}/me/api-keys", headers)


class Client:
    """openai's, as its users call it: with its own retries."""

    def __init__(self, api: str, key: str) -> None:
        from openai import OpenAI

        self.openai = OpenAI(base_url=api, api_key=key)

    def chat(self, model: str = "fraud-v3", text: str = "Who am I?") -> str | None:
        messages: Any = [{"role": "user", "content": text}]
        chat = self.openai.chat.completions.create(model=model, messages=messages)
        return chat.choices[0].message.content

    def chunks(self, text: str, model: str = "fraud-v3") -> Iterator["Choice"]:
        messages: Any = [{"role": "user", "content": text}]
        create = self.openai.chat.completions.create
        for chunk in create(model=model, messages=messages, stream=True):
            yield chunk.choices[0]

    def stream(self, model: str = "fraud-v3") -> str:
        chunks = self.chunks("Who am I?", model)
        return "".join(chunk.delta.content or "" for chunk in chunks)

    def transcribe(self, model: str = "fraud-v3", size: int = 9) -> str:
        create = self.openai.audio.transcriptions.create
        return create(model=model, file=("speech.wav", bytes(size))).text

    def is_refused(self) -> bool:
        import openai

        try:
            self.chat()
        except openai.AuthenticationError as error:
            return error.code == "invalid_token"
        return False


@pytest.fixture
def client(api: str, key: Key) -> Iterator[Client]:
    client = Client(api, key.text)
    with client.openai:
        yield client


def seconds_until(condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 10
        time.sleep(0.05)
    return time.monotonic() - began


async def test_openais_client_uses_the_models_of_its_key(
    api: str, client: Client, key: Key
) -> None:
    from openai import AsyncOpenAI

    assert [model.id for model in client.openai.models.list()] == ["fraud-v3", "fraud-v4"]
    assert client.chat() == f"{key.owner}: Who am I?"
    assert client.stream() == f"{key.owner}: Who am I? "
    assert client.transcribe("fraud-v4", 2 << 20) == f"{key.owner}: 2097152 bytes for fraud-v4"
    messages: Any = [{"role": "user", "content": "Who am I?"}]
    async with AsyncOpenAI(base_url=api, api_key=key.text) as asynchronous:
        create = asynchronous.chat.completions.create
        chunks = await create(model="fraud-v3", messages=messages, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in chunks]
    assert words == [f"{key.owner}: ", "Who ", "am ", "I? ", ""]


def test_openais_client_is_told_which_scope_it_lacks(
    client: Client, subtests: pytest.Subtests
) -> None:
    import openai

    calls: dict[str, Callable[[str], object]] = {
        "chat": client.chat,
        "stream": client.stream,
        "transcription": client.transcribe,
    }
    for name, call in calls.items():
        with subtests.test(name):
            with pytest.raises(openai.PermissionDeniedError, match="predict:iris") as refused:
                call("iris")
            assert (refused.value.status_code, refused.value.code) == (403, "insufficient_scope")
            assert 'scope="predict:iris"' in refused.value.response.headers["www-authenticate"]
            # These are not names of models.
            with pytest.raises(openai.BadRequestError) as malformed:
                call("fraud-*/../iris")
            assert malformed.value.code == "invalid_request"
            call("fraud-v3")
    with pytest.raises(openai.NotFoundError):  # it may be called, but does not exist
        client.chat("fraud-v9")


def test_malformed_and_forged_keys_get_the_same_refusal(
    api: str, key: Key, subtests: pytest.Subtests
) -> None:
    import openai

    other = "A" if key.text[-1] != "A" else "B"
    refused = {
        "wrong checksum": key.text[:-1] + other,
        "wrong secret": forge(key.text),
        "no key": "sk-proj-of-somebody-else",
    }
    bodies = set()
    for name, text in refused.items():
        with subtests.test(name), Client(api, text).openai as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert caught.value.code == "invalid_token"
            bodies.add(caught.value.response.text)
    assert len(bodies) == 1


def test_a_revoked_or_suspended_key_is_refused_within_a_second(
    service: RunningService, api: str, admin: dict[str, str], subtests: pytest.Subtests
) -> None:
    acts = {"revoked": ("DELETE", ""), "suspended": ("POST", "/suspend")}
    for name, act in acts.items():
        with subtests.test(name):
            for is_last in (False, False, True):  # the machine may be busy with other tests
                key = new_key(service, admin)
                client = Client(api, key.text)
                client.chat()
                key.act(*act)
                if seconds_until(client.is_refused) < 1:
                    break
                assert not is_last
    key.act("POST", "/resume")
    seconds_until(lambda: not client.is_refused())


def test_a_rotated_key_works_until_its_overlap_ends(api: str, client: Client, key: Key) -> None:
    assert client.chat() == f"{key.owner}: Who am I?"
    rotated_at = time.monotonic()
    successor = Client(api, key.rotate(overlap_seconds=4))
    assert successor.chat() == f"{key.owner}: Who am I?"
    assert not client.is_refused()
    time.sleep(2)  # which costs less than to ask
    seconds_until(client.is_refused)
    # Tokens expire at whole seconds.
    assert 3 <= time.monotonic() - rotated_at < 10
    assert successor.chat() == f"{key.owner}: Who am I?"


def test_a_stream_continues_while_its_key_is_valid_and_ends_with_it(
    api: str, client: Client, key: Key
) -> None:
    going_on = client.chunks(LONG)
    next(going_on)
    new = key._replace(text=key.rotate(overlap_seconds=3600))
    ending = Client(api, new.text).chunks(LONG)
    next(ending)
    new.act("DELETE")
    words = list(ending)
    assert len(words) < 40
    assert words[-1].finish_reason is None  # so the client knows that there is more
    words = list(going_on)
    assert len(words) == len(LONG.split(" ")) + 1
    assert words[-1].finish_reason == "stop"


def test_a_service_account_has_keys_as_well(
    service: RunningService, api: str, admin: dict[str, str]
) -> None:
    import openai

    new = {"username": "svc-nightly", "scopes": ["predict:fraud-v4"]}
    account = service._call("POST", "/service-accounts", 201, json=new, headers=admin)
    path = f"/users/{account['id']}/api-keys"
    made = service._call("POST", path, 201, json={"name": "host"}, headers=admin)
    with Client(api, made["key"]).openai as openais:
        assert [model.id for model in openais.models.list()] == ["fraud-v4"]
    client = Client(api, made["key"])
    assert client.chat("fraud-v4") == "svc-nightly: Who am I?"
    with pytest.raises(openai.PermissionDeniedError, match="predict:fraud-v3"):
        client.chat("fraud-v3")


def test_the_requests_of_hugging_faces_client(api: str, key: Key) -> None:
    """As huggingface_hub 2.4 sends them, which is not installed beside us."""
    headers = {
        **bearer(key.text),
        "User-Agent": "unknown/None; hf_hub/2.4.0; python/3.11.7",
        "Content-Type": "application/json",
        "X-Amzn-Trace-Id": "5f43adab-a360-419a-a221-9c47edddce29",
    }

    def ask(model: str, stream: str) -> httpx.Response:
        message = '{"role":"user","content":"Who am I?"}'
        body = f'{{"model":"{model}","messages":[{message}],"stream":{stream}}}'
        return httpx.post(f"{api}/chat/completions", content=body, headers=headers)

    message = ask("fraud-v3", "false").json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": f"{key.owner}: Who am I?"}
    assert ask("fraud-v3", "true").text.endswith("data: [DONE]\n\n")
    refused = ask("iris", "false")
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        403,
        "The token does not allow this: predict:iris",
    )


def test_the_requests_of_mlflows_client_behind_nginx(service: RunningService, key: Key) -> None:
    """As mlflow 3.17 sends them with `MLFLOW_TRACKING_TOKEN`. It is not installed beside us."""
    headers = {
        **bearer(key.text),
        "User-Agent": "mlflow-python-client/3.17.2",
        "X-MLflow-Client-Version": "3.17.2",
    }
    port = int(service.url.rpartition(":")[2])
    with (
        closing_model() as model,
        gateway("nginx", port, model.port) as url,
        httpx.Client(base_url=f"{url}/api/2.0/mlflow", headers=headers) as client,
    ):
        by_name = client.get("/experiments/get-by-name", params={"experiment_name": "Default"})
        created = client.post("/runs/create", json={"experiment_id": "0", "start_time": 1})
        assert (by_name.status_code, created.status_code) == (200, 200)
        for seen in model.seen:
            assert seen.values("X-Auth-Username") == [key.owner]
            assert seen.values("X-Auth-Key-Id") == [key.id]
            assert seen.values("Authorization") in ([], [""])
        assert len(model.seen) == 2
        key.act("DELETE")
        path = "/runs/create"
        assert seconds_until(lambda: client.post(path).status_code == 401) < 3


@contextmanager
def closing_model() -> Iterator[Model]:
    model = Model()
    try:
        yield model
    finally:
        model.stop()


def block(language: str, containing: str) -> str:
    """A code block of the page, which readers copy."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def test_the_page_about_clients_shows_calls_that_work(
    api: str,
    key: Key,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def prints(containing: str) -> str:
        script = block("bash", containing).replace("http://127.0.0.1:9000/v1", api)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=environment(API_KEY=key.text),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    monkeypatch.setenv("OPENAI_BASE_URL", api)
    monkeypatch.setenv("OPENAI_API_KEY", key.text)
    exec(block("python", "from openai import"), {})
    assert capsys.readouterr().out == block("text", "insufficient_scope").replace("ada", key.owner)
    assert f'"content":"{key.owner}: Is this fraud?"' in prints("completions -H")
    assert prints("--no-buffer").endswith("data: [DONE]\n\n")
    (tmp_path / "speech.wav").write_bytes(b"RIFF WAVE")
    text = prints("audio/transcriptions")
    assert text == f'{{"text":"{key.owner}: 9 bytes for fraud-v3"}}'
