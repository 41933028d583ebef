"""Each proxy with its files from examples/, between a real Hourpass and a model without access
control."""

from urllib.parse import unquote

import httpx
import pytest

from tests.support.limited_tokens import KEY_ID
from tests.support.model_server import Model
from tests.support.processes import free_port
from tests.support.proxies import GUINEVERE, ProxiedHourpass, connection, gateway, head_of_answer
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def test_the_model_gets_the_user_and_no_token(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    headers = bearer(hourpass.token(GUINEVERE))
    for method in METHODS:
        with subtests.test(method):
            model.seen.clear()
            assert proxy.request(method, "/predict?x=1", headers=headers).status_code == 200
            (seen,) = model.seen
            assert (seen.method, seen.path) == (method, "/predict?x=1")
            assert seen.values("X-Auth-User-Id") == ["2"]
            assert seen.values("X-Auth-Username") == ["Gueni%C3%A8vre%20du%20Lac"]
            assert unquote(seen.values("X-Auth-Username")[0]) == GUINEVERE["username"]
            assert seen.values("X-Auth-Scopes") == ["predict train"]
            assert seen.values("X-Auth-Kind") == ["person"]
            assert seen.values("Authorization") in ([], [""])


def test_the_model_gets_the_id_of_the_key(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = {**bearer(hourpass.key_token), "X-Auth-Key-Id": "spoofed", "X-Auth-Kind": "service"}
    assert proxy.get("/predict", headers=headers).status_code == 200
    (seen,) = model.seen
    assert seen.values("X-Auth-Key-Id") == [KEY_ID]
    assert seen.values("X-Auth-Kind") == ["person"]
    assert seen.values("X-Auth-Scopes") == ["predict"]


def test_a_token_without_a_scheme_is_accepted(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = {"Authorization": hourpass.token(GALAHAD)}
    assert proxy.get("/predict", headers=headers).status_code == 200
    assert len(model.seen) == 1


def assert_refused(response: httpx.Response, model: Model) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith('Bearer realm="hourpass"')
    assert "x-auth-user-id" not in response.headers
    assert model.seen == []


def test_without_a_token_nothing_reaches_the_model(
    proxy: httpx.Client, model: Model, subtests: pytest.Subtests
) -> None:
    for path in ("/", "/predict", "/train", "/verify", "/_hourpass", "/healthz"):
        with subtests.test(path):
            response = proxy.post(path, json={"x": 1})
            # nginx asks Hourpass under that name.
            if path == "/_hourpass" and response.status_code == 404:
                assert model.seen == []
            else:
                assert_refused(response, model)


def test_an_expired_and_a_forged_token_are_refused(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    token = hourpass.token(GALAHAD)
    for refused in (hourpass.expired_token, token[:-1], f"{token}.x", "nonsense"):
        response = proxy.get("/predict", headers=bearer(refused))
        assert_refused(response, model)
        assert 'error="invalid_token"' in response.headers["www-authenticate"]


def test_a_revoked_token_is_refused_at_once(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    token = hourpass.token(GALAHAD)
    assert proxy.get("/predict", headers=bearer(token)).status_code == 200
    hourpass.client.post("/revoke", data={"token": token}).raise_for_status()
    model.seen.clear()
    assert_refused(proxy.get("/predict", headers=bearer(token)), model)


def test_a_disabled_users_token_is_refused_at_once(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    arthur = bearer(hourpass.token(ARTHUR))
    token = hourpass.token(LANCELOT)
    assert proxy.get("/predict", headers=bearer(token)).status_code == 200
    lancelot = int(model.seen.pop().values("X-Auth-User-Id")[0])
    toggle = f"/toggle-user-permission/{lancelot}"
    hourpass.client.put(f"{toggle}/0", headers=arthur).raise_for_status()
    assert_refused(proxy.get("/predict", headers=bearer(token)), model)
    hourpass.client.put(f"{toggle}/1", headers=arthur).raise_for_status()
    assert_refused(proxy.get("/predict", headers=bearer(token)), model)


def test_a_rule_may_demand_a_scope(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    response = proxy.post("/train?scope=", headers=bearer(hourpass.token(GALAHAD)), content=b"x")
    assert response.status_code == 403
    challenge = 'Bearer realm="hourpass", error="insufficient_scope", scope="train"'
    assert response.headers["www-authenticate"] == challenge
    assert response.json()["error"] == "insufficient_scope"
    assert model.seen == []
    response = proxy.post("/train?scope=", headers=bearer(hourpass.token(GUINEVERE)), content=b"x")
    assert response.status_code == 200
    assert [seen.path for seen in model.seen] == ["/train?scope="]


SEPARATORS = "-_.!#$%&'*+^`|~"


IDENTITY_HEADERS = (
    "X-Auth-User-Id",
    "X-Auth-Username",
    "X-Auth-Kind",
    "X-Auth-Scopes",
    "X-Auth-Key-Id",
)


def test_identity_headers_of_a_client_never_reach_the_model(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    """Galahad has no scopes, and a client cannot add any."""
    token = hourpass.token(GALAHAD)
    for name in IDENTITY_HEADERS:
        with subtests.test(name):
            model.seen.clear()
            spellings = [name.replace("-", separator) for separator in SEPARATORS]
            spellings += [name.upper(), name.lower(), name, name.replace("-", "_", 1)]
            spellings += [name.swapcase()]
            headers = [("Authorization", f"Bearer {token}")]
            headers += [(spelling, "spoofed") for spelling in spellings]
            assert proxy.get("/predict", headers=headers).status_code == 200
            (seen,) = model.seen
            assert "spoofed" not in str(seen.headers)
            assert seen.values("X-Auth-User-Id") == ["4"]
            assert seen.values("X-Auth-Username") == ["galahad"]
            assert seen.values("X-Auth-Kind") == ["person"]
            for absent in ("X-Auth-Scopes", "X-Auth-Key-Id"):
                assert seen.values(absent) in ([], [""])


def test_identity_headers_cannot_be_removed_with_connection(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    """Connection names headers that a proxy must not pass on (RFC 9110, 7.6.1)."""
    headers = {**bearer(hourpass.token(GALAHAD)), "Connection": "close, X-Auth-User-Id"}
    proxy.get("/predict", headers=headers)
    assert [seen.values("X-Auth-User-Id") for seen in model.seen] in ([["4"]], [])


def test_a_body_of_any_size_goes_to_the_model_alone(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    headers = bearer(hourpass.token(GALAHAD))
    for size in (0, 1, 16_385, 2_000_000):
        chunks = iter([b"x" * size] if size else [])
        for framing, content in (("with a length", b"x" * size), ("chunked", chunks)):
            with subtests.test(f"{size} bytes, {framing}"):
                model.seen.clear()
                response = proxy.post("/predict", headers=headers, content=content)
                assert response.status_code == 200, response.text
                assert [seen.body_bytes for seen in model.seen] == [size]


def test_each_response_to_a_small_body_is_complete(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    """Some proxies truncate a few of a hundred responses if they are told to flush at once."""
    headers = bearer(hourpass.token(GALAHAD))
    for _ in range(200):
        assert proxy.post("/predict", headers=headers, content=b"x").json() == {"prediction": 42}
    assert len(model.seen) == 200


def test_a_websocket_opens_for_a_user(url: str, hourpass: ProxiedHourpass, model: Model) -> None:
    model.seen.clear()
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    request = f"GET /live HTTP/1.1\r\nHost: model.example\r\n{upgrade}"
    with connection(url, f"{request}\r\n") as refused:
        assert head_of_answer(refused).startswith("HTTP/1.1 401 ")
    assert model.seen == []
    with connection(url, f"{request}Authorization: {hourpass.token(GALAHAD)}\r\n\r\n") as opened:
        assert head_of_answer(opened).startswith("HTTP/1.1 101 ")
        opened.sendall(b"hello\n")
        assert opened.recv(6) == b"hello\n"
    assert model.seen[0].values("X-Auth-User-Id") == ["4"]


def test_no_other_protocol_is_opened_than_websocket(
    url: str, hourpass: ProxiedHourpass, model: Model
) -> None:
    """The proxy could not check the requests inside of an HTTP/2 connection to the model."""
    model.seen.clear()
    head = "Host: model.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    head += (
        f"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nAuthorization: {hourpass.token(GALAHAD)}\r\n"
    )
    with connection(url, f"GET /predict HTTP/1.1\r\n{head}\r\n") as asked:
        assert not head_of_answer(asked).startswith("HTTP/1.1 101 ")
    assert [value for seen in model.seen for value in seen.values("Upgrade") if value] == []


SPELLINGS_OF_PREDICT = """
//predict /verify/../predict /%2e%2e/predict /_hourpass /_hourpass/../predict /predict%00
/predict;x http://model.example/predict http://model.example//verify?scope= *
""".split()  # noqa: SIM905 - easier to read than a list of as many lines


def test_no_spelling_of_a_path_reaches_the_model_without_a_token(
    url: str, model: Model, subtests: pytest.Subtests
) -> None:
    for path in SPELLINGS_OF_PREDICT:
        with subtests.test(path):
            model.seen.clear()
            request = f"GET {path} HTTP/1.1\r\nHost: model.example\r\n\r\n"
            with connection(url, request) as asked:
                status = head_of_answer(asked)[9:12]
            assert status in ("400", "401", "403", "404", "")
            assert model.seen == []


SPELLINGS_OF_TRAIN = """
/train /train/ //train /./train /x/../train /%74rain /%2e/train /x/%2e%2e/train
/x%2f..%2ftrain /x/..%2ftrain /%2ftrain /train%2f http://model.example/train
""".split()  # noqa: SIM905 - easier to read than a list of as many lines


def test_every_spelling_of_a_path_needs_its_scope(
    url: str, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    """A model server may treat each of these as /train."""
    head = f"Host: model.example\r\nAuthorization: Bearer {hourpass.token(GALAHAD)}\r\n\r\n"
    for path in SPELLINGS_OF_TRAIN:
        with subtests.test(path):
            model.seen.clear()
            request = f"POST {path} HTTP/1.1\r\nContent-Length: 0\r\n{head}"
            with connection(url, request) as asked:
                assert head_of_answer(asked)
            assert model.seen == []


HIDDEN = "POST /train HTTP/1.1\r\nHost: model.example\r\nContent-Length: 0\r\n\r\n"
FRAMINGS = (
    f"Content-Length: {len(HIDDEN) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    f"Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n",
    "Content-Length: +0\r\n\r\n",
    "\r\n",
)


def test_no_request_is_smuggled_to_the_model_inside_another(
    proxy: httpx.Client,
    url: str,
    hourpass: ProxiedHourpass,
    model: Model,
    subtests: pytest.Subtests,
) -> None:
    token = hourpass.token(GALAHAD)
    head = f"POST /predict HTTP/1.1\r\nHost: model.example\r\nAuthorization: {token}\r\n"
    for framing in FRAMINGS:
        with subtests.test(framing):
            model.seen.clear()
            with connection(url, f"{head}{framing}{HIDDEN}") as asked:
                head_of_answer(asked)
                # The answer to one more request comes after the hidden one would have arrived.
                assert proxy.get("/predict", headers=bearer(token)).status_code == 200
            assert {seen.path for seen in model.seen} == {"/predict"}


def test_without_hourpass_every_request_is_refused(
    kind: str, hourpass: ProxiedHourpass, model: Model
) -> None:
    token = hourpass.token(GALAHAD)
    model.seen.clear()
    with gateway(kind, free_port(), model.port) as url:
        for headers in (bearer(token), {}):
            assert 500 <= httpx.get(f"{url}/predict", headers=headers).status_code < 600
    assert model.seen == []
