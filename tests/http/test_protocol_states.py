"""What a connection waits for in each state, and how it ends: by a time limit, by its client, or
because the service stops. No sockets."""

import logging
import os

import pytest

from app.server.connections import Connections
from tests.support.protocol_peer import BODY, QUICK, SLOW, App, Peer, turns


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def peer(app: App) -> Peer:
    return Peer(app)


async def test_a_new_connection_is_registered_and_gets_a_small_buffer(peer: Peer) -> None:
    assert peer.server.connections == {peer.protocol}
    assert peer.protocol.network == "192.0.2.7"
    assert [option[2] for option in peer.transport.options] == [32_768]
    assert peer.queue == "first_heads"


async def test_a_client_that_has_disconnected_or_has_no_address_is_no_error(app: App) -> None:
    assert Peer(app, error=OSError("gone")).queue == "first_heads"
    assert Peer(app, has_client=False).protocol.network == ""


async def test_100_connections_above_the_limit_get_503_and_further_ones_are_closed(
    app: App,
) -> None:
    app.state.connections.limit = 0
    refused = [Peer(app) for _ in range(101)]
    assert {tuple(peer.statuses) for peer in refused[:100]} == {(503,)}
    assert {tuple(peer.transport.calls) for peer in refused[:100]} == {("eof",)}
    assert refused[100].statuses == []
    assert refused[100].transport.calls == ["abort"]


async def test_a_request_in_progress_is_told_when_its_connection_is_lost(peer: Peer) -> None:
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


async def test_an_event_that_changes_no_state_does_not_restart_a_time_limit(
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


async def test_a_client_has_to_close_in_time_after_the_last_answer(peer: Peer) -> None:
    await peer.send(QUICK)
    peer.transport.unsent = 10
    peer.protocol.transport.close()
    peer.protocol.pause_writing()
    peer.protocol.resume_writing()
    assert peer.queue == "stalled"
    peer.protocol.expire()
    assert peer.transport.calls == ["close", "abort"]


async def test_an_evicted_connection_handles_no_more_requests(
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
async def test_a_server_that_stops_waits_for_clients_that_still_read(
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


async def test_an_idle_connection_with_a_request_that_has_just_arrived_is_kept(peer: Peer) -> None:
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
