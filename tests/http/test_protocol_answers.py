"""Each request gets one answer, in the order of the requests. Bytes after the last request are
dropped. No sockets."""

import json

import pytest

from tests.support.protocol_peer import BODY, LAST, QUICK, SLOW, App, Peer, turns
from tests.support.raw_http import request


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def peer(app: App) -> Peer:
    return Peer(app)


async def test_a_head_and_its_body_are_one_write(peer: Peer) -> None:
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


async def test_an_answer_from_memory_is_not_written_to_a_client_that_has_disconnected(
    peer: Peer,
) -> None:
    peer.protocol.data_received(QUICK)  # answered in the next turn
    peer.protocol.connection_lost(None)
    await turns()
    assert peer.transport.writes == []


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


async def test_a_client_that_disconnects_before_one_side_is_closed_is_aborted(
    peer: Peer,
) -> None:
    await peer.send(BODY)
    peer.transport.error = OSError("gone")
    peer.protocol.transport.close()
    assert peer.transport.calls == ["eof", "abort"]


async def test_bytes_after_the_last_request_are_dropped_while_that_request_waits(
    peer: Peer,
) -> None:
    for data in (SLOW, LAST, b"x" * 10):
        await peer.send(data)
    assert (len(peer.protocol.pipeline), peer.protocol._held) == (1, bytearray())
    assert peer.protocol._dropped_bytes == 10


async def test_at_most_a_mebibyte_is_dropped_after_the_last_answer(peer: Peer) -> None:
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


async def test_the_request_before_a_malformed_head_is_answered(peer: Peer) -> None:
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


async def test_the_app_is_told_at_once_that_its_request_was_refused(peer: Peer) -> None:
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
