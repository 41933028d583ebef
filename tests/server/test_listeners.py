"""What `hourpass serve` listens on, with one worker and with several."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.server.listeners import bind

V4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
V6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
UNKNOWN = (9999, socket.SOCK_STREAM, 6, "", ("x", 0))  # as IPv6 is to a kernel without it
MISSING = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))  # RFC 5737

either_number_of_workers = pytest.mark.parametrize(
    "copies", [1, 2], ids=["one worker", "several workers"]
)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


with_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, host: str, copies: int) -> list[tuple[str, int]]:
    """The addresses on which the workers listen."""
    listeners = bind(host, 0, copies)
    for listener in listeners:
        stack.enter_context(listener)
        listener.listen()
    addresses = [listener.getsockname()[:2] for listener in listeners]
    assert addresses[::copies] == addresses[copies - 1 :: copies]
    return addresses[::copies]


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


@with_ipv6
@either_number_of_workers
def test_two_colons_mean_all_addresses_of_both_families(stack: ExitStack, copies: int) -> None:
    [(_, port)] = listening(stack, "::", copies)
    assert accepts("127.0.0.1", port)
    assert accepts("::1", port)


@with_ipv6
@either_number_of_workers
def test_an_address_is_only_that_address(stack: ExitStack, copies: int) -> None:
    [(_, port)] = listening(stack, "::1", copies)
    assert accepts("::1", port)
    assert not accepts("127.0.0.1", port)
    [(_, port)] = listening(stack, "0.0.0.0", copies)
    assert accepts("127.0.0.1", port)
    assert not accepts("::1", port)


@with_ipv6
@either_number_of_workers
def test_a_name_means_all_its_addresses_on_one_port(
    stack: ExitStack, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [UNKNOWN, MISSING, V6, V4, V4])
    (v6, port), (v4, another) = listening(stack, "localhost", copies)
    assert (v6, v4, port) == ("::1", "127.0.0.1", another)


@either_number_of_workers
def test_an_address_that_the_host_does_not_have_is_an_error(copies: int) -> None:
    with pytest.raises(OSError, match="assign requested address") as caught:
        bind("192.0.2.1", 0, copies)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@either_number_of_workers
def test_a_port_in_use_is_an_error(stack: ExitStack, copies: int) -> None:
    [(_, port)] = listening(stack, "127.0.0.1", copies)
    for number in (1, 2):
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", port, number)
