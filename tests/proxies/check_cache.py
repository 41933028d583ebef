"""nginx caches responses of Hourpass until the end of the second (examples/model_behind_nginx)."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.proxies import GUINEVERE, ProxiedHourpass, gateway
from tests.support.users import GALAHAD, Person, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]


class Counter:
    """Between nginx and Hourpass: it passes checks on, and counts them."""

    def __init__(self, hourpass: int) -> None:
        self.checks = 0
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{hourpass}")
        self.lock = Lock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"counter": self})
        )
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.client.close()


class _Handler(BaseHTTPRequestHandler):
    counter: Counter
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        with self.counter.lock:
            self.counter.checks += 1
        headers = {"Authorization": self.headers.get("Authorization", "")}
        response = self.counter.client.head(self.path, headers=headers)
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: a test prints only what failed."""


@pytest.fixture(scope="module")
def counter(hourpass: ProxiedHourpass) -> Iterator[Counter]:
    counter = Counter(hourpass.port)
    yield counter
    counter.stop()


@pytest.fixture(scope="module")
def nginx(counter: Counter, model: Model) -> Iterator[httpx.Client]:
    with gateway("nginx", counter.port, model.port) as url, httpx.Client(base_url=url) as client:
        yield client


def predict_until_cached(nginx: httpx.Client, counter: Counter, token: str) -> None:
    """Repeat a request until nginx uses a cached response for it."""
    before = -1
    while counter.checks != before:
        before = counter.checks
        assert nginx.get("/predict", headers=bearer(token)).status_code == 200


def wait_for_the_next_second() -> None:
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.01)


def test_a_response_is_used_again_within_the_second(
    nginx: httpx.Client, counter: Counter, hourpass: ProxiedHourpass, model: Model
) -> None:
    token = hourpass.token(GUINEVERE)
    model.seen.clear()
    predict_until_cached(nginx, counter, token)
    assert {seen.values("X-Auth-Username")[0] for seen in model.seen} == {
        "Gueni%C3%A8vre%20du%20Lac"
    }
    assert {seen.values("X-Auth-Scopes")[0] for seen in model.seen} == {"predict train"}


def test_a_revoked_token_is_refused_once_the_second_is_over(
    nginx: httpx.Client, counter: Counter, hourpass: ProxiedHourpass
) -> None:
    token = hourpass.token(GALAHAD)
    wait_for_the_next_second()  # so that all of this happens within one
    predict_until_cached(nginx, counter, token)
    hourpass.client.post("/revoke", data={"token": token}).raise_for_status()
    wait_for_the_next_second()
    assert nginx.get("/predict", headers=bearer(token)).status_code == 401


def test_a_refusal_is_never_used_again(
    nginx: httpx.Client, counter: Counter, hourpass: ProxiedHourpass
) -> None:
    token = hourpass.token(GALAHAD)
    for path, refused, status in (("/predict", token[:-1], 401), ("/train", token, 403)):
        for _ in range(4):
            before = counter.checks
            assert nginx.get(path, headers=bearer(refused)).status_code == status
            assert counter.checks == before + 1


def test_no_other_token_gets_the_response(
    nginx: httpx.Client, counter: Counter, hourpass: ProxiedHourpass, model: Model
) -> None:
    token = hourpass.token(GUINEVERE)
    predict_until_cached(nginx, counter, token)
    model.seen.clear()
    others = (
        token[:-1],
        f"{token}x",
        token.swapcase(),
        f"train {token}",
        f"- {token}",
        "",
        "Bearer",
    )
    for other in others:
        for value in (other, f"Bearer {other}".strip()):
            predict_until_cached(nginx, counter, token)
            model.seen.clear()
            assert nginx.get("/predict", headers={"Authorization": value}).status_code == 401
            assert model.seen == []
    assert nginx.get("/predict").status_code == 401


def test_the_users_of_a_second_never_mix(
    nginx: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    """Each request says in its path which user the model has to see."""
    people: dict[str, Person] = {"2": GUINEVERE, "4": GALAHAD}
    tokens = {
        number: [hourpass.token(person) for _ in range(3)] for number, person in people.items()
    }
    model.seen.clear()

    def ask(number: int) -> None:
        user_id = "24"[number % 2]
        headers = bearer(tokens[user_id][number % 3])
        assert nginx.get(f"/predict/{user_id}", headers=headers).status_code == 200
        status = {"2": 200, "4": 403}[user_id]
        assert nginx.get(f"/train/{user_id}", headers=headers).status_code == status

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(120)))
    assert len(model.seen) == 180
    for seen in model.seen:
        assert seen.values("X-Auth-User-Id") == [seen.path.rpartition("/")[2]]
    assert all(seen.path != "/train/4" for seen in model.seen)


def test_it_can_be_switched_off(counter: Counter, hourpass: ProxiedHourpass, model: Model) -> None:
    token = hourpass.token(GALAHAD)
    off = {"proxy_cache hourpass;": "proxy_cache off;"}
    with gateway("nginx", counter.port, model.port, off) as url:
        before = counter.checks
        for _ in range(6):
            assert httpx.get(f"{url}/predict", headers=bearer(token)).status_code == 200
        assert counter.checks == before + 6
