"""How many connections the service keeps. No client can use them all up."""

import asyncio
import gc
import logging
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.ip_addresses import network_of
from app.server.connections import MAX_REFUSALS, Connections, TimeLimits
from app.server.open_files import open_files
from app.server.protocol import HttpProtocol
from app.tokens.revocations import feed
from tests.support.connection_flood import flooding
from tests.support.limited_service import JSON, limited_service, wait_for
from tests.support.raw_http import connected, read_answers, request
from tests.support.settings import make_settings
from tests.support.started_service import Service, forked
from tests.support.users import LANCELOT

LONG = TimeLimits(*[60.0] * 6)
NEIGHBOUR = "127.0.0.2"
TEN = {"max_connections": 10, "max_connections_per_network": 10}


@pytest.fixture
def run(sqlite_template: Path, tmp_path: Path) -> Callable[..., Any]:
    return partial(limited_service, sqlite_template, tmp_path, LONG)


def test_the_longest_idle_connection_is_closed_for_a_new_one(run: Any) -> None:
    with run(**TEN) as service, ExitStack() as stack:

        def connect(asked: bytes = b"") -> socket.socket:
            connection: socket.socket = stack.enter_context(connected(service.base_url))
            connection.settimeout(10)
            opened = service.open
            connection.sendall(asked)
            wait_for(lambda: service.open >= min(opened, 10))
            if asked:
                assert connection.recv(65536)[:12] == b"HTTP/1.1 200"
            return connection

        pooled = connect(request("GET /healthz"))
        silent = [connect() for _ in range(9)]
        wait_for(lambda: service.open == 10)
        for evicted in silent:  # those that never sent a request are evicted first, in order
            newcomer = connect(request("GET /healthz"))
            assert evicted.recv(100) == b""
            if evicted is silent[3]:
                pooled.sendall(request("GET /healthz"))  # it is still open
                assert pooled.recv(65536)[:12] == b"HTTP/1.1 200"
        newcomer.sendall(request("GET /healthz"))
        assert newcomer.recv(65536)[:12] == b"HTTP/1.1 200"


def test_requests_in_progress_are_not_evicted_and_new_clients_get_503(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with run(**TEN) as service, ExitStack() as stack:
        listeners = [stack.enter_context(connected(service.base_url)) for _ in range(10)]
        for listener in listeners:
            listener.sendall(request("GET /slow", "Connection: close"))
        wait_for(lambda: service.open == 10 and not service.connections.first_heads.since)
        with caplog.at_level(logging.WARNING, "hourpass.connections"):
            for _ in range(5):
                with connected(service.base_url) as newcomer:
                    newcomer.sendall(request("GET /healthz"))
                    (answer,) = read_answers(newcomer)
                assert answer.status == 503
                assert answer.headers["connection"] == "close"
                assert answer.headers["retry-after"] == "1"
        assert caplog.text.count("Too many connections") == 1
        service.go_on.set()
        for listener in listeners:
            assert [answer.status for answer in read_answers(listener)] == [200]


def test_at_most_100_refused_clients_get_an_answer_at_the_same_time(run: Any) -> None:
    """Each of them uses one of the open files until it has read the answer."""
    with run(**TEN) as service, ExitStack() as stack:
        for _ in range(10):
            listener = stack.enter_context(connected(service.base_url))
            listener.sendall(request("GET /slow"))
        wait_for(lambda: service.open == 10 and not service.connections.first_heads.since)
        refused = [stack.enter_context(connected(service.base_url)) for _ in range(150)]
        answers = [len(read_answers(connection)) for connection in refused]
        assert set(answers) == {0, 1}
        assert len(service.connections.refused.since) <= MAX_REFUSALS + 1


@pytest.mark.parametrize(
    ("asked", "queue"),
    [
        pytest.param(b"", "first_heads", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", "first_heads", id="half a head"),
        pytest.param(request("GET /healthz") + b"GET ", "heads", id="half a second head"),
        pytest.param(request("GET /healthz"), "idle", id="idle"),
        pytest.param(request("POST /token", JSON, "Content-Length: 100"), "bodies", id="no body"),
        pytest.param(
            request("POST /token", JSON, "Content-Length: 20000"), "closing", id="refused"
        ),
        pytest.param(request("GET /large"), "stalled", id="answers not taken"),
    ],
)
def test_connections_that_make_the_service_wait_are_closed_for_new_ones(
    run: Any, asked: bytes, queue: str
) -> None:
    with run(**TEN) as service, ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connected(service.base_url))
            connection.sendall(asked)
        wait_for(lambda: len(getattr(service.connections, queue).since) == 10)
        for _ in range(5):
            with connected(service.base_url) as newcomer:
                newcomer.sendall(request("GET /healthz", "Connection: close"))
                assert [answer.status for answer in read_answers(newcomer)] == [200]
        assert service.open <= 10


class Unread(NamedTuple):
    """What the service keeps in memory for one connection."""

    answered: int  # requests, since the service started
    unsent: int  # bytes of answers
    unparsed: int  # bytes of requests
    queued: int  # requests
    is_stopped: bool  # neither read from nor written to


async def at_rest(connection: HttpProtocol) -> Unread | None:
    """None if 100 turns of the event loop change anything."""

    def look() -> Unread:
        return Unread(
            connection.server_state.total_requests,
            connection._raw.get_write_buffer_size(),
            len(connection._held),
            len(connection.pipeline),
            connection._flow.is_full and connection._flow.write_paused,
        )

    before = look()
    for _ in range(100):
        await asyncio.sleep(0)
    return before if look() == before and before.is_stopped else None


@pytest.mark.parametrize("path", ["/verify", "/openapi.json"], ids=["at once", "by a task"])
def test_a_client_that_sends_and_never_reads_fills_no_memory(run: Any, path: str) -> None:
    asked = request(f"GET {path}")
    with run() as service, socket.socket() as client:
        longest = len(httpx.get(f"{service.base_url}{path}").content) + 1_000  # with its head
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = httpx.URL(service.base_url)
        client.connect((url.host, url.port))
        client.setblocking(False)
        heads = service.connections.first_heads.since
        wait_for(lambda: len(heads) == 1)
        (connection,) = heads
        rest = memoryview(asked * 200_000)

        found: Unread | None = None

        def has_stopped() -> bool:
            nonlocal rest, found
            with suppress(BlockingIOError):
                while rest:
                    rest = rest[client.send(rest) :]
            assert rest, "the service has read all requests"
            looking = asyncio.run_coroutine_threadsafe(at_rest(connection), connection.loop)
            found = looking.result(10)
            return found is not None

        wait_for(has_stopped)
        assert found
        assert found.unsent <= 65_536 + longest
        assert found.unparsed <= 16_384 + 65_536
        assert found.queued <= 41


def test_one_network_cannot_use_up_all_connections(run: Any) -> None:
    limits = {"max_connections": 20, "max_connections_per_network": 5}
    with run(**limits) as service, ExitStack() as stack:
        for _ in range(5):
            listener = stack.enter_context(connected(service.base_url, NEIGHBOUR))
            listener.sendall(request("GET /slow"))
        wait_for(lambda: service.open == 5 and not service.connections.first_heads.since)
        with connected(service.base_url, NEIGHBOUR) as sixth:
            (answer,) = read_answers(sixth)
            assert answer.status == 503
        assert httpx.get(f"{service.base_url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("wanted", "listeners"),
    [(20, 10), (1_001, 500), (100_000, 5_000)],
    ids=["20", "1,001", "100,000"],
)
def test_half_of_all_connections_may_listen_to_the_feed_and_5000_at_most(
    sqlite_template: Path,
    tmp_path: Path,
    wanted: int,
    listeners: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.server.connections.open_files", lambda: 1_000_000)
    limits = {"max_connections": wanted}
    with limited_service(sqlite_template, tmp_path, LONG, **limits) as service:
        assert service.app.state.revocation_feed.max_listeners == listeners


def test_listeners_use_at_most_half_of_all_connections(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are never evicted, so two addresses together could use up all connections."""
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 3600)  # nothing is sent while they wait
    sources = (NEIGHBOUR, "127.0.0.3")
    with run(max_connections=20) as service, ExitStack() as stack:
        cursor = httpx.get(f"{service.base_url}/revocations").json()["cursor"]
        asked = request(f"GET /revocations?wait=30&after={cursor}")
        waiting = [
            stack.enter_context(connected(service.base_url, source))
            for source in sources
            for _ in range(10)
        ]
        for connection in waiting:
            connection.sendall(asked)
        idle = service.connections.idle.since
        wait_for(lambda: not service.connections.first_heads.since and len(idle) == 10)
        refused = select.select(waiting, [], [], 0)[0]
        assert len(refused) == 10
        for connection in refused:
            assert connection.recv(65536)[:12] == b"HTTP/1.1 503"
        for _ in range(20):
            with httpx.Client(verify=False) as client:
                assert client.get(f"{service.base_url}/healthz").status_code == 200
        assert not select.select(set(waiting) - set(refused), [], [], 0)[0]
        service.app.state.stopping.set()


def test_a_trusted_proxy_may_use_all_connections(run: Any) -> None:
    limits = {"max_connections": 20, "max_connections_per_network": 5}
    with run(trusted_proxies=NEIGHBOUR, **limits) as service, ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connected(service.base_url, NEIGHBOUR))
            connection.sendall(request("GET /slow"))
        wait_for(lambda: service.open == 20 and not service.connections.first_heads.since)


def test_the_idle_connections_of_trusted_proxies_are_closed_last(run: Any) -> None:
    with run(trusted_proxies=NEIGHBOUR, **TEN) as service, ExitStack() as stack:

        def connect(source: str) -> socket.socket:
            connection: socket.socket = stack.enter_context(connected(service.base_url, source))
            connection.sendall(request("GET /healthz"))
            assert connection.recv(65536)[:12] == b"HTTP/1.1 200"
            return connection

        proxies = [connect(NEIGHBOUR) for _ in range(5)]
        for _ in range(30):
            connect("127.0.0.1")
        for proxy in proxies:
            proxy.sendall(request("GET /healthz"))
            assert proxy.recv(65536)[:12] == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("wanted", "warns"), [(None, False), (100, False), (1_000_000, True)], ids=str
)
def test_the_limit_of_connections_leaves_some_files_for_other_uses(
    wanted: int | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings("sqlite:///x.db", max_connections=wanted)
    limit = Connections(settings).limit
    assert limit <= max(10, open_files() - 200)
    assert wanted is None or limit <= wanted
    assert ("MAX_CONNECTIONS is above the open-files limit" in caplog.text) == warns


@pytest.fixture
def files() -> Iterator[int]:
    """The number that this process may open, raised for the clients of a flood."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1] if before[1] > 0 else 1_000_000
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("is_lowered", [True, False], ids=["450 open files", "a low soft limit"])
def test_calls_are_answered_while_another_address_holds_many_connections(
    tmp_path: Path, files: int, is_lowered: bool
) -> None:
    """In addition to 400 silent connections, there are 100 on which a head arrives slowly. All that
    the service closes are opened again. `serve` raises a soft limit to the hard one."""
    open_files = (450, 450) if is_lowered else (256, files)
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with forked(tmp_path, "serve", open_files=open_files, DATABASE_URL=url) as service:
        service.wait_until_ready()
        assert httpx.post(f"{service.base_url}/register-user", json=LANCELOT).status_code == 201
        _login_and_verify(service)
        with flooding(service.base_url, NEIGHBOUR, 400, 100):
            took = [_login_and_verify(service) for _ in range(5)]
            listener = httpx.get(f"{service.base_url}/revocations?wait=1")
            assert listener.status_code == 200
        assert median(took) < 2
        written = service.everything_written()
        assert "Traceback" not in written
        if is_lowered:
            line = service.logged("Too many connections")
            assert line["network"] == NEIGHBOUR
            assert written.count("Too many connections") <= 2
        else:
            assert "Too many connections" not in written


def _login_and_verify(service: Service) -> float:
    began = time.monotonic()
    with httpx.Client(base_url=service.base_url, timeout=10) as client:
        token = client.post("/token", json=LANCELOT).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/verify", headers=headers).status_code == 200
        assert client.get("/me", headers=headers).json()["username"] == LANCELOT["username"]
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_client_network_is_an_ipv4_address_or_an_ipv6_64(host: str, network: str) -> None:
    assert network_of(host) == network


def test_an_idle_connection_keeps_no_database_session(run: Any) -> None:
    """Anyone can hold connections, and a session takes 5 KB."""

    def sessions() -> int:
        gc.collect()
        return sum(isinstance(thing, AsyncSession) for thing in gc.get_objects())

    with run() as service, httpx.Client(base_url=service.base_url) as client:
        before = sessions()
        login = {"username": "mordred", "password": "excalibur"}
        assert client.post("/token", json=login).status_code == 401
        wait_for(lambda: sessions() <= before)
