"""What the protocol does in each state of a connection: with its transport, its queues and the
requests that wait. No sockets: a test is the client and the event loop's transport."""

import asyncio
import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.server.connections import Connections, TimeLimits
from app.server.protocol import HttpProtocol
from tests.support.raw_http import request
from tests.support.settings import make_settings

LONG = TimeLimits(*[60.0] * 6)
QUICK = request("GET /quick")
SLOW = request("GET /slow")
LAST = request("GET /slow", "Connection: close")
BODY = request("POST /slow", "Content-Length: 10")
NOTHING_TO_READ, _ = os.pipe()


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.calls: list[str] = []  # that close it, or the side of the service
        self.unsent = 0
        self.reads = True
        self.options: list[tuple[int, ...]] = []
        self.error: OSError | None = None
        self.has_client = True
        self.file = NOTHING_TO_READ

    def fileno(self) -> int:
        return self.file

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 80

    def getpeername(self) -> tuple[str, int]:
        if not self.has_client:
            raise OSError
        return "192.0.2.7", 1

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)
        if self.error:
            raise self.error

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.calls.append("eof")
        if self.error:
            raise self.error

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class App:
    """Answers /quick at once, /slow when a test says so, and the body of /stream."""

    def __init__(self) -> None:
        connections = Connections(make_settings("sqlite:///x.db"), LONG)
        stopping = asyncio.Event()
        self.state = SimpleNamespace(middleware=self, connections=connections, stopping=stopping)
        self.go_on = asyncio.Event()
        self.called = 0
        self.heard: list[str] = []

    def try_fast_path(self, scope: Any) -> Any:
        if scope["path"] != "/quick":
            return None
        return SimpleNamespace(status=200, headers=((b"x-name", b"50%s"),), body=b"quick"), "id"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called += 1
        hearing = asyncio.create_task(self._hear(receive))
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if scope["path"] == "/stream":
            await send(start)
        await self.go_on.wait()
        hearing.cancel()
        if scope["path"] != "/stream":
            await send(start)
        await send({"type": "http.response.body", "body": b"slow"})

    async def _hear(self, receive: Any) -> None:
        while self.heard[-1:] != ["http.disconnect"]:
            self.heard.append((await receive())["type"])


class Peer:
    """One connection, with its transport."""

    def __init__(self, app: App, *, has_client: bool = True, error: OSError | None = None) -> None:
        self.app = app
        config = uvicorn.Config(app, log_config=None, ws="none", proxy_headers=False)
        self.server = ServerState()
        self.protocol = HttpProtocol(config, self.server, {}, asyncio.get_running_loop())
        self.transport = Transport()
        self.transport.error = error
        self.transport.has_client = has_client
        self.protocol.connection_made(self.transport)

    @property
    def queue(self) -> str | None:
        queues = vars(self.app.state.connections)
        return next((name for name, each in queues.items() if each is self.protocol.queue), None)

    @property
    def statuses(self) -> list[int]:
        return [int(part[9:12]) for part in self.transport.writes if part.startswith(b"HTTP/1.1 ")]

    async def send(self, data: bytes) -> None:
        self.protocol.data_received(data)
        await turns()

    async def answer(self) -> None:
        self.app.go_on.set()
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def peer(app: App) -> Peer:
    return Peer(app)


async def test_a_connection_is_known_to_the_server_and_has_a_small_buffer(peer: Peer) -> None:
    assert peer.server.connections == {peer.protocol}
    assert peer.protocol.network == "192.0.2.7"
    assert [option[2] for option in peer.transport.options] == [32_768]
    assert peer.queue == "first_heads"


async def test_a_client_that_has_gone_or_has_no_address_is_no_error(app: App) -> None:
    assert Peer(app, error=OSError("gone")).queue == "first_heads"
    assert Peer(app, has_client=False).protocol.network == ""


async def test_a_connection_too_many_is_told_so_if_there_are_not_too_many_of_those(
    app: App,
) -> None:
    app.state.connections.limit = 0
    refused = [Peer(app) for _ in range(101)]
    assert {tuple(peer.statuses) for peer in refused[:100]} == {(503,)}
    assert {tuple(peer.transport.calls) for peer in refused[:100]} == {("eof",)}
    assert refused[100].statuses == []
    assert refused[100].transport.calls == ["abort"]


async def test_a_head_and_its_body_are_written_at_once(peer: Peer) -> None:
    await peer.send(SLOW)
    await peer.answer()
    (written,) = peer.transport.writes
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"slow" in written
    assert peer.server.total_requests == 1


async def test_an_answer_from_memory_is_a_whole_response(peer: Peer) -> None:
    """Also if a header has a percent sign, as X-Auth-Username has for a name that is no ASCII."""
    await peer.send(request("GET /quick", "Connection: close"))
    head, _, body = peer.transport.writes[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")[1:]
    assert {b"x-name: 50%s", b"connection: close"} < set(lines)
    assert all(b": " in line for line in lines)
    assert body == b"quick"


async def test_when_a_connection_is_lost_its_request_in_progress_hears_so(peer: Peer) -> None:
    """Though another request waits behind it."""
    await peer.send(SLOW)
    await peer.send(QUICK)
    peer.protocol._held += b"more"
    peer.protocol.connection_lost(None)
    await turns()
    assert peer.app.heard[-1] == "http.disconnect"
    assert not peer.protocol.pipeline
    assert not peer.protocol._held
    assert not peer.server.connections
    assert peer.app.state.connections.open == 0
    assert peer.queue is None
    await peer.answer()
    await peer.send(QUICK)
    assert peer.transport.writes == []


async def test_a_connection_may_be_lost_before_and_after_a_request(app: App) -> None:
    Peer(app).protocol.connection_lost(None)
    peer = Peer(app)
    await peer.send(QUICK)
    peer.protocol.connection_lost(ConnectionResetError())
    assert peer.statuses == [200]
    assert peer.protocol._current
    assert not peer.protocol._current.disconnected
    await peer.send(QUICK)
    assert peer.statuses == [200]


async def test_an_answer_from_memory_is_not_written_to_a_client_that_has_gone(peer: Peer) -> None:
    peer.protocol.data_received(QUICK)  # answered in the next turn
    peer.protocol.connection_lost(None)
    await turns()
    assert peer.transport.writes == []


async def test_a_client_that_does_not_read_is_answered_by_a_task_that_waits(peer: Peer) -> None:
    await peer.send(QUICK)
    peer.transport.unsent = 70_000
    peer.protocol.pause_writing()
    assert peer.queue == "stalled"
    peer.app.go_on.set()
    await peer.send(QUICK)
    assert peer.app.called == 1
    assert peer.statuses == [200]
    peer.protocol.resume_writing()
    assert peer.queue is None  # it is in progress
    await turns()
    assert peer.statuses == [200, 200]
    assert peer.queue == "idle"


@pytest.mark.parametrize(
    ("sent", "queue"),
    [
        pytest.param([b"GET"], "first_heads", id="the first head"),
        pytest.param([QUICK], "idle", id="a request"),
        pytest.param([QUICK, b"GET"], "heads", id="another head"),
        pytest.param([BODY], "bodies", id="a body"),
        pytest.param([BODY + b"x" * 10], None, id="in progress"),
        pytest.param([SLOW, BODY], None, id="in progress, and the body of another"),
    ],
)
async def test_a_connection_is_in_the_queue_of_what_it_waits_for(
    peer: Peer, sent: list[bytes], queue: str | None
) -> None:
    for data in sent:
        await peer.send(data)
    assert peer.queue == queue


async def test_what_changes_nothing_starts_no_time_limit_again(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.server.connections.monotonic", lambda: now)
    connections = peer.app.state.connections
    await peer.send(QUICK)
    now += 1
    await peer.send(b"\r\n")
    assert connections.idle.since == {peer.protocol: 1_000.0}
    peer.transport.unsent = 70_000
    peer.protocol.pause_writing()
    now += 1
    peer.transport.unsent = 60_000
    await peer.send(b"\r\n")
    assert connections.stalled.since == {peer.protocol: 1_001.0}
    assert peer.protocol._unsent_bytes == 70_000


@pytest.mark.parametrize(
    ("sent", "statuses", "calls"),
    [
        pytest.param([QUICK], [200], ["close"], id="between requests"),
        pytest.param([b"GET"], [408], ["eof"], id="in a head"),
        pytest.param([BODY], [408], ["eof"], id="in a body"),
    ],
)
async def test_a_client_that_is_too_slow_is_refused_or_closed(
    peer: Peer, sent: list[bytes], statuses: list[int], calls: list[str]
) -> None:
    for data in sent:
        await peer.send(data)
    peer.protocol.expire()
    assert peer.statuses == statuses
    assert peer.transport.calls == calls


async def test_a_client_has_to_read_32_kilobytes_in_time(peer: Peer) -> None:
    await peer.send(QUICK)
    peer.transport.unsent = 100_000
    peer.protocol.pause_writing()
    for left in (67_232, 34_464, 1_696):
        peer.transport.unsent = left
        peer.app.state.connections.move(peer.protocol, None)
        peer.protocol.expire()
        assert (peer.transport.calls, peer.queue) == ([], "stalled")
    peer.transport.unsent = 100_000
    peer.protocol._wait_for_client()
    peer.transport.unsent -= 32_767
    peer.protocol.expire()
    assert peer.transport.calls == ["abort"]


async def test_a_client_has_to_close_in_time_when_all_has_been_said(peer: Peer) -> None:
    await peer.send(QUICK)
    peer.transport.unsent = 10
    peer.protocol.transport.close()
    peer.protocol.pause_writing()
    peer.protocol.resume_writing()
    assert peer.queue == "stalled"
    peer.protocol.expire()
    assert peer.transport.calls == ["close", "abort"]


async def test_a_connection_that_is_evicted_hears_nothing_any_more(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.protocol.fail()
    await peer.send(QUICK)
    assert peer.transport.calls == ["abort"]
    assert peer.server.total_requests == 0
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hourpass.connections", logging.ERROR)


@pytest.mark.parametrize(
    ("unsent", "calls"), [(0, ["close", "abort"]), (10, ["close"])], ids=["all read", "not all"]
)
async def test_a_server_that_stops_waits_for_those_who_still_read(
    peer: Peer, unsent: int, calls: list[str]
) -> None:
    await peer.send(QUICK)
    peer.protocol.transport.close()
    peer.transport.unsent = unsent
    peer.protocol.shutdown()
    assert peer.app.state.stopping.is_set()
    assert peer.transport.calls == calls


async def test_a_server_that_stops_answers_each_connection_once_more(app: App) -> None:
    new, idle, sending, busy = peers = [Peer(app) for _ in range(4)]
    await idle.send(QUICK)
    await sending.send(SLOW[:10])
    await busy.send(SLOW)
    for peer in peers:
        peer.protocol.shutdown()
        assert peer.transport.calls == []
    assert [peer.queue for peer in peers] == ["idle", "idle", "first_heads", None]
    await sending.send(SLOW[10:])
    for peer in (new, idle):
        await peer.send(QUICK)
    await busy.answer()
    for peer in peers:
        assert b"connection: close" in b"".join(peer.transport.writes[-1:])
        assert peer.transport.calls == ["close"]
        assert peer.queue == "closing"


async def test_a_connection_accepted_while_the_server_stops_gets_one_answer(app: App) -> None:
    app.state.connections.stop()
    peer = Peer(app)
    assert peer.queue == "idle"
    await peer.send(QUICK)
    assert b"connection: close" in peer.transport.writes[-1]


async def test_idle_connections_are_closed_sooner_while_the_server_stops(app: App) -> None:
    connections: Connections = app.state.connections
    peer = Peer(app)
    await peer.send(QUICK)
    connections.idle.since[peer.protocol] -= 1
    connections.stop()
    assert connections.idle.seconds == connections.idle_proxies.seconds == 1
    assert peer.transport.calls == ["close"]


async def test_an_idle_connection_with_a_request_that_has_just_come_is_kept(peer: Peer) -> None:
    await peer.send(QUICK)
    unread, client = os.pipe()
    peer.transport.file = unread
    os.write(client, QUICK)
    peer.protocol.expire()
    assert (peer.transport.calls, peer.queue) == ([], "idle")
    os.read(unread, 1000)
    peer.protocol.expire()
    assert peer.transport.calls == ["close"]
    for file in (unread, client):
        os.close(file)


@pytest.mark.parametrize(
    ("sent", "call"),
    [
        pytest.param([LAST], "close", id="nothing"),
        pytest.param([LAST, b"x"], "eof", id="bytes after the last request"),
        pytest.param([LAST, b"x" * 2**20], "eof", id="a mebibyte of them"),
        pytest.param([LAST, b"x" * 2**20, b"x"], "close", id="more than a mebibyte"),
        pytest.param([BODY + b"x"], "eof", id="the rest of a body"),
        pytest.param([SLOW, b"GET"], "eof", id="the rest of a head"),
        pytest.param([SLOW, QUICK * 50], "eof", id="requests that nobody has looked at"),
        pytest.param([SLOW, QUICK * 1_000], "eof", id="more of them than may wait"),
    ],
)
async def test_a_connection_with_unread_bytes_is_closed_on_one_side_first(
    peer: Peer, sent: list[bytes], call: str
) -> None:
    for data in sent:
        await peer.send(data)
    if peer.protocol._held:
        peer.protocol.pipeline.clear()
    peer.protocol.transport.close()
    peer.protocol.transport.close()  # once is enough
    assert peer.transport.calls == [call]
    assert peer.queue == "closing"
    assert not peer.protocol._held
    assert peer.transport.reads == (call == "eof" or sent == [LAST])
    await peer.send(b"x")
    assert peer.transport.writes == []


async def test_a_client_that_has_gone_before_one_side_was_closed_is_disconnected(
    peer: Peer,
) -> None:
    await peer.send(BODY)
    peer.transport.error = OSError("gone")
    peer.protocol.transport.close()
    assert peer.transport.calls == ["eof", "abort"]


async def test_what_follows_the_last_request_is_dropped_although_that_one_waits(peer: Peer) -> None:
    for data in (SLOW, LAST, b"x" * 10):
        await peer.send(data)
    assert (len(peer.protocol.pipeline), peer.protocol._held) == (1, bytearray())
    assert peer.protocol._dropped_bytes == 10


async def test_after_the_last_answer_a_mebibyte_is_dropped_and_no_more(peer: Peer) -> None:
    await peer.send(BODY)
    peer.protocol.expire()
    await peer.send(b"x" * 2**20)
    assert peer.transport.calls == ["eof"]
    await peer.send(b"x")
    assert peer.transport.calls == ["eof", "close"]


@pytest.mark.parametrize(("behind", "reads"), [(16_384, True), (16_385, False)])
async def test_sixteen_kilobytes_may_wait_behind_a_queued_request(
    peer: Peer, behind: int, reads: bool
) -> None:
    await peer.send(SLOW)
    await peer.send(QUICK)
    assert len(peer.protocol.pipeline) == 1
    assert peer.transport.reads  # or it would not notice that the client has gone
    await peer.send(QUICK)
    assert (len(peer.protocol.pipeline), peer.protocol._held) == (1, bytearray(QUICK))
    peer.protocol._held.clear()
    await peer.send(b"G" * behind)
    assert len(peer.protocol._held) == behind
    assert peer.transport.reads == reads
    peer.protocol._held[:] = QUICK * 3
    await peer.answer()
    assert peer.statuses == [200] * 5
    assert peer.transport.reads


async def test_a_malformed_body_gets_one_answer_in_its_turn(app: App) -> None:
    chunks = request("POST /quick", "Transfer-Encoding: chunked") + b"x\r\n"
    alone = Peer(app)
    await alone.send(chunks)
    assert (alone.statuses, app.called) == ([400], 0)
    queued = Peer(app)
    await queued.send(SLOW + chunks)
    assert queued.statuses == []
    assert not queued.protocol.pipeline
    await queued.answer()
    assert queued.statuses == [200, 400]
    answered = Peer(app)
    await answered.send(chunks[:-3])
    assert answered.statuses == [200]
    await answered.send(b"x\r\n")
    assert answered.statuses == [200]
    for peer in (alone, queued, answered):
        assert peer.transport.calls == ["eof"]
        await peer.send(QUICK)
        assert peer.statuses[-1] != 200 or peer is answered


async def test_a_malformed_head_does_not_cost_the_request_before_it_its_answer(peer: Peer) -> None:
    await peer.send(SLOW)
    await peer.send(QUICK + b"\0\r\n")
    await peer.answer()
    assert peer.statuses == [200, 200, 400]


async def test_an_answer_that_has_begun_gets_no_second_one(peer: Peer) -> None:
    await peer.send(request("POST /stream", "Transfer-Encoding: chunked") + b"1\r\nx\r\n")
    await peer.send(b"x\r\n")
    await peer.answer()
    assert peer.statuses == [200]
    assert peer.transport.calls == ["eof"]


async def test_an_application_hears_at_once_that_its_request_was_refused(peer: Peer) -> None:
    await peer.send(BODY)
    peer.protocol.expire()
    await turns()
    assert peer.app.heard[-1] == "http.disconnect"


async def test_the_answer_to_a_request_whose_body_is_too_large_is_the_last_one(peer: Peer) -> None:
    await peer.send(request("POST /slow", "Content-Length: 1000000"))
    await peer.answer()
    assert b"\r\nconnection: close\r\n" in peer.transport.writes[0]
    assert peer.transport.calls == ["eof"]


async def test_a_refusal_is_a_whole_response(peer: Peer) -> None:
    peer.server.default_headers.append((b"date", b"today"))
    await peer.send(b"GET")
    peer.protocol.expire()
    (written,) = peer.transport.writes
    head, _, body = written.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ") for line in lines)
    assert status_line == b"HTTP/1.1 408 Request Timeout"
    assert json.loads(body)["error"] == "request_timeout"
    assert int(headers[b"content-length"]) == len(body)
    assert (headers[b"date"], headers[b"connection"]) == (b"today", b"close")
    assert headers[b"x-content-type-options"] == b"nosniff"
