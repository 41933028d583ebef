"""Guards and clients ignore the machine's environment, such as proxies and certificates.

Each test has a real service on a real socket, with TLS and proxies as in a company's network.
"""

import http.client
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hourpass import Guard, HourpassAuth, ServiceUnavailableError
from hourpass.client import token_endpoint
from hourpass.guard import service_client
from hourpass.http.errors import cause_of
from hourpass.testing import Issuer
from tests.support.certificates import certificate
from tests.support.guards import comes_true, guard_messages
from tests.support.issuer_server import dribbling_server, http_proxy, serving_issuer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def url(issuer: Issuer) -> Iterator[str]:
    with serving_issuer(issuer) as url:
        yield url


Use = Callable[..., str]


def use_guard(issuer: Issuer, url: str, **options: Any) -> str:
    with Guard(url, **options) as guard:
        return guard.check(issuer.token()).username


def outage(use: Use, caplog: pytest.LogCaptureFixture, url: str, **options: Any) -> str:
    """What is logged when a guard or a client cannot reach the service."""
    if use is use_client:
        with pytest.raises(ServiceUnavailableError):
            use_client(None, url, **options)
    else:
        guard = Guard(url, timeout=timedelta(milliseconds=1), **options)
        with pytest.raises(ServiceUnavailableError):
            guard.check("any.token.")
        assert comes_true(lambda: guard_messages(caplog) != [])
        guard.close()
    return caplog.messages[0]


def use_client(_: Issuer | None, url: str, **options: Any) -> str:
    auth = HourpassAuth(url, "lancelot", "secret", **options)
    return "lancelot" if auth.token() else ""


both = pytest.mark.parametrize("use", [use_guard, use_client])


@both
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"HTTP_PROXY": "PROXY", "http_proxy": "PROXY"}, id="a proxy"),
        pytest.param({"ALL_PROXY": "socks5://127.0.0.1:9"}, id="a SOCKS proxy"),
        pytest.param({"NO_PROXY": "[::1]"}, id="an odd exception"),
        pytest.param({"SSL_CERT_FILE": "/does/not/exist"}, id="no certificates"),
    ],
)
def test_the_environment_changes_nothing(
    issuer: Issuer,
    url: str,
    use: Use,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    with http_proxy(asked) as proxy:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.replace("PROXY", proxy))
        assert use(issuer, url) == "lancelot"
    assert asked == []


def test_no_line_is_logged_for_each_request(
    issuer: Issuer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for use in (use_guard, use_client):
        use(issuer, url)
    assert caplog.messages == []


@pytest.fixture
def private_network(tmp_path: Path) -> Iterator[tuple[Issuer, str]]:
    """A server whose certificate is its own authority, and which wants one from clients."""
    context = certificate(tmp_path)
    context.load_verify_locations(tmp_path / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    issuer = Issuer()
    with serving_issuer(issuer, context) as url:
        yield issuer, url


@both
def test_a_private_authority_and_a_client_certificate_are_arguments(
    private_network: tuple[Issuer, str], tmp_path: Path, use: Use
) -> None:
    pair = (tmp_path / "cert.pem", tmp_path / "key.pem")
    assert use(*private_network, verify=tmp_path / "cert.pem", cert=pair) == "lancelot"
    both_in_one = tmp_path / "both.pem"
    both_in_one.write_bytes(pair[0].read_bytes() + pair[1].read_bytes())
    assert use(*private_network, verify=str(pair[0]), cert=both_in_one) == "lancelot"


@both
def test_an_unknown_authority_is_logged_as_an_outage(
    private_network: tuple[Issuer, str], use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    _, url = private_network
    assert "certificate: self-signed certificate" in outage(use, caplog, url)


@both
@pytest.mark.parametrize("has_context", [False, True], ids=["a file", "an SSLContext"])
def test_a_proxy_is_used_if_it_is_given(tmp_path: Path, use: Use, *, has_context: bool) -> None:
    issuer, asked = Issuer(), list[Any]()
    with serving_issuer(issuer, certificate(tmp_path)) as url, http_proxy(asked) as proxy:
        verify: Any = tmp_path / "cert.pem"
        if has_context:
            verify = ssl.create_default_context(cafile=verify)
        with_password = proxy.replace("//", "//lancelot:gr%40il@")
        assert use(issuer, url, verify=verify, proxy=with_password) == "lancelot"
    host = url.removeprefix("https://")
    assert set(asked) == {(f"CONNECT {host} HTTP/1.1", "Basic bGFuY2Vsb3Q6Z3JAaWw=")}


@both
def test_plain_http_goes_through_a_proxy_too(
    url: str, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []
    with http_proxy(asked) as proxy:
        with_password = proxy.replace("//", "//lancelot:gr%40il@")
        assert "502" in outage(use, caplog, url, proxy=with_password)
    assert asked[0][1] == "Basic bGFuY2Vsb3Q6Z3JAaWw="
    assert asked[0][0].split(" ")[1].startswith(f"{url}/")


@pytest.mark.parametrize("made", [Guard, lambda url, **rest: HourpassAuth(url, "a", "b", **rest)])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"verify": False}, id="verify nothing"),
        pytest.param({"verify": "/does/not/exist.pem"}, id="no such authority"),
        pytest.param({"cert": "/does/not/exist.pem"}, id="no such certificate"),
        pytest.param({"proxy": "socks5://name:secret@127.0.0.1:1080"}, id="SOCKS"),
        pytest.param({"proxy": "https://127.0.0.1"}, id="a proxy over TLS"),
        pytest.param({"proxy": "127.0.0.1:80"}, id="no scheme"),
        pytest.param({"proxy": "http://127.0.0.1:port"}, id="no number"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(
    made: Callable[..., Any], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*secret)(verify|proxy)"):
        made("https://hourpass.example", **options)


SLOW = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: " + b"x" * 200


@both
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(SLOW, id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 200, id="body"),
    ],
)
def test_a_server_that_sends_single_bytes_cannot_exceed_the_time_limit(
    use: Use, answer: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit for each read would begin again with each byte."""
    monkeypatch.setattr(service_client, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(token_endpoint, "TIMEOUT", 0.3)
    with dribbling_server(answer, pause=0.02) as url:
        assert re.search("no answer in time|too slow", outage(use, caplog, url))


def broken() -> Any:
    raise ImportError("secret")


@both
def test_an_unexpected_error_is_an_outage_with_one_line_in_the_log(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport that lacks a package."""
    line = outage(use, caplog, "https://hourpass.example", transport=broken)
    place = f"in {Path(__file__).name}, line {broken.__code__.co_firstlineno + 1}"
    assert f"ImportError {place}" in line
    assert len(caplog.messages) <= 2  # the second: every request is refused
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), "no connection in time"),
        (socket.gaierror(-2, "Name or service not known"), "the name of its host is unknown"),
        (ConnectionRefusedError(111, "with a secret"), "Connection refused"),
        (http.client.BadStatusLine("secret"), "not HTTP: BadStatusLine"),
        (ssl.SSLError(1, "secret"), "TLS: error"),
        (KeyError("secret"), "KeyError"),
    ],
)
def test_a_cause_is_plain_and_quotes_nothing(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
