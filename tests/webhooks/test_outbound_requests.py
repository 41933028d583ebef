"""Outgoing requests reach only checked addresses, and no server can delay them or fill the memory.

The receiver is a real server with TLS. Only the answers of the DNS are made up.
"""

import asyncio
import gzip
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from app.outbound_http import client as module
from app.outbound_http.client import MAX_HEAD_BYTES, OutboundHttp
from app.outbound_http.errors import OutboundError
from app.outbound_http.resolver import MAX_LOOKUPS, Resolver
from tests.support.https_receiver import HOST, Receiver, answer, https_receiver
from tests.support.waiting import until


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with https_receiver(tmp_path) as it:
        yield it


async def reason(http: OutboundHttp, url: str, **options: Any) -> str:
    with pytest.raises(OutboundError) as refused:
        await http.send("POST", url, **options)
    return refused.value.reason


async def test_a_request_and_its_response(receiver: Receiver) -> None:
    receiver.answers = [answer(200, "X-Made: of wood", body=b"excalibur")]
    http = receiver.client()
    response = await http.send(
        "POST", receiver.url, headers={"X-Asked": "yes"}, content=b"sword", max_body=9
    )
    assert (response.status, response.body) == (200, b"excalibur")
    assert ("x-made", "of wood") in response.headers
    (request,) = receiver.requests
    assert request.line == "POST /hook?key=value HTTP/1.1"
    assert request.body == b"sword"
    assert request.headers.pop("user-agent").startswith("Hourpass/")
    assert request.headers == {
        "host": f"{HOST}:{receiver.port}",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "5",
        "x-asked": "yes",
    }
    assert receiver.server_names == [HOST]


async def test_without_max_body_only_the_status_is_awaited(receiver: Receiver) -> None:
    receiver.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"]
    response = await receiver.client().send("POST", receiver.url)
    assert (response.status, response.body) == (200, b"")


async def test_a_name_is_looked_up_once_and_the_checked_address_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer would lead to this host."""
    answers = [["8.8.8.8"], ["127.0.0.1"]]
    connected: list[str] = []
    real = httpcore2.AnyIOBackend.connect_tcp

    async def resolve(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    async def connect(self: Any, host: str, port: int, *options: Any) -> Any:
        connected.append(host)
        return await real(self, "127.0.0.1", port, *options)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    trusting = ssl.create_default_context(cafile=receiver.place / "cert.pem")
    http = OutboundHttp((), resolve, trusting)
    assert (await http.send("POST", receiver.url)).status == 204
    assert connected == ["8.8.8.8"]
    assert await reason(http, receiver.url) == "address_not_allowed"
    assert connected == ["8.8.8.8"]


async def test_a_host_is_refused_if_one_of_its_addresses_is_not_allowed(
    receiver: Receiver, subtests: pytest.Subtests
) -> None:
    for addresses in (
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["169.254.169.254"],
        ["fe80::1%1"],
        ["what is this"],
    ):
        with subtests.test(", ".join(addresses)):
            http = receiver.client(addresses, "")
            assert await reason(http, receiver.url) == "address_not_allowed"
    assert receiver.connections == 0


async def test_an_address_in_a_url_is_checked_too(
    receiver: Receiver, subtests: pytest.Subtests
) -> None:
    http = receiver.client(["8.8.8.8"], "")
    for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
        with subtests.test(host):
            assert await reason(http, f"https://{host}:{receiver.port}/") == "address_not_allowed"
    assert receiver.connections == 0


async def test_an_allowed_address_in_a_url_needs_a_certificate(receiver: Receiver) -> None:
    url = f"https://127.0.0.1:{receiver.port}/"  # which the certificate has
    assert (await receiver.client([]).send("GET", url)).status == 204


async def test_the_next_address_is_tried(receiver: Receiver) -> None:
    http = receiver.client(["127.0.0.2", "127.0.0.1"])  # no server listens at the first one
    assert (await http.send("POST", receiver.url)).status == 204
    assert await reason(receiver.client(["127.0.0.2"]), receiver.url) == "connect"
    many = [*(f"127.0.0.{number}" for number in range(2, 5)), "127.0.0.1"]
    assert await reason(receiver.client(many), receiver.url) == "connect"


async def test_an_ambiguous_url_is_not_used() -> None:
    for url in ("https://user@a.example", "https://2130706433", "gopher://a"):
        assert await reason(OutboundHttp(()), url) == "invalid_url"


async def test_a_certificate_of_another_name_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    other = receiver.url.replace(HOST, "other.camelot.example")
    assert await reason(receiver.client(), other) == "tls"
    (tmp_path / "other").mkdir()
    async with https_receiver(tmp_path / "other") as stranger:
        stranger.place = receiver.place  # trusts only the first one's certificate
        assert await reason(stranger.client(), stranger.url) == "tls"
    assert receiver.requests == []


async def test_a_server_without_tls_gets_nothing_by_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its connection stay open."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)  # it waits for the rest of a request
    async with https_receiver(tmp_path, tls=False) as plain:
        assert await reason(plain.client(), plain.url) == "timeout"
        assert plain.connections == 1
        assert plain.requests == []
        await until(lambda: not plain.handlers)


async def test_http_is_for_allowed_networks_only(tmp_path: Path) -> None:
    async with https_receiver(tmp_path, tls=False) as plain:
        url = plain.url.replace("https", "http")
        assert (await plain.client().send("POST", url)).status == 204
        assert await reason(plain.client(networks=""), url) == "address_not_allowed"
        assert await reason(plain.client(["8.8.8.8"]), url) == "not_encrypted"
        assert await reason(plain.client(["127.0.0.1", "8.8.8.8"]), url) == "not_encrypted"
        assert len(plain.requests) == 1


async def test_a_redirect_is_a_response_like_others(receiver: Receiver) -> None:
    location = f"Location: https://127.0.0.1:{receiver.port}/inside"
    for status in (301, 302, 303, 307, 308):
        receiver.answers = [answer(status, location)]
        assert (await receiver.client().send("POST", receiver.url)).status == status
    assert {request.line for request in receiver.requests} == {"POST /hook?key=value HTTP/1.1"}
    assert receiver.connections == 5


async def test_nothing_is_kept_for_the_next_request(receiver: Receiver) -> None:
    http = receiver.client()
    receiver.answers = [answer(200, "Set-Cookie: a=b")]
    for _ in range(2):
        await http.send("POST", receiver.url)
    assert receiver.connections == 2
    assert "cookie" not in receiver.requests[1].headers


async def test_the_library_logs_nothing_of_other_servers(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    receiver.answers = [answer(200, "X-Made: of wood")]
    await receiver.client().send("POST", receiver.url)
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "of wood" in line or "key=value" in line or HOST in line]


async def test_proxies_and_passwords_of_the_environment_are_ignored(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("default login arthur password excalibur")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert (await receiver.client().send("POST", receiver.url)).status == 204
    assert "authorization" not in receiver.requests[0].headers


async def drip(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(head)
    for _ in range(1000):
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n",
    ],
    ids=["status line", "headers", "body"],
)
async def test_a_response_that_arrives_byte_by_byte_times_out(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    receiver.respond = lambda writer: drip(writer, head)
    assert await reason(receiver.client(), receiver.url, max_body=10_000) == "timeout"


async def test_a_silent_server_times_out(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    receiver.is_free.clear()
    assert await reason(receiver.client(), receiver.url) == "timeout"


async def test_the_size_of_a_head_is_limited(receiver: Receiver, subtests: pytest.Subtests) -> None:
    for name, response in (
        ("one header", b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"),
        ("many headers", b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * MAX_HEAD_BYTES),
        ("many responses", b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD_BYTES),
    ):
        with subtests.test(name):
            receiver.then = response
            assert await reason(receiver.client(), receiver.url) == "too_large"


async def test_the_size_of_a_body_is_limited(receiver: Receiver) -> None:
    http = receiver.client()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    one_by_one = chunked + b"1\r\na\r\n" * 100_000
    for response in (answer(200, body=b"a" * 101), one_by_one, chunked + b"65\r\n" + b"a" * 101):
        receiver.answers = [response]
        assert await reason(http, receiver.url, max_body=100) == "too_large"
    receiver.answers = [chunked + b"64\r\n" + b"a" * 100 + b"\r\n0\r\n\r\n"]
    assert (await http.send("GET", receiver.url, max_body=100)).body == b"a" * 100


async def test_nothing_is_decompressed(receiver: Receiver) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    receiver.then = answer(200, "Content-Encoding: gzip", body=bomb)
    http = receiver.client()
    assert await reason(http, receiver.url, max_body=100_000) == "encoded"
    assert (await http.send("POST", receiver.url)).status == 200  # the body is not read


async def test_a_response_that_is_not_http_is_an_error(receiver: Receiver) -> None:
    for response in (b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200"):
        receiver.then = response
        assert await reason(receiver.client(), receiver.url) == "protocol", response


# Looking up names


async def test_names_are_looked_up_by_the_system() -> None:
    assert "127.0.0.1" in await Resolver()("localhost", 443)


async def test_a_name_without_an_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await reason(OutboundHttp(()), "https://nobody.camelot.example") == "name_not_found"


async def test_lookups_that_hang_time_out_and_are_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_free, waiting = threading.Event(), threading.Semaphore(0)

    def hang(*_: object, **__: object) -> Any:
        waiting.release()
        is_free.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    resolver = Resolver()
    http = OutboundHttp((), resolver)
    url = "https://slow.camelot.example"
    reasons = await asyncio.gather(*(reason(http, url) for _ in range(MAX_LOOKUPS)))
    assert set(reasons) == {"timeout"}
    assert await reason(http, url) == "name_not_found"  # not even tried
    is_free.set()
    await until(lambda: resolver._lookups == 0)
