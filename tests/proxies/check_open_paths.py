"""Paths that need no token, behind each proxy of examples/."""

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.path_cases import PATH_CASES
from tests.support.proxies import ProxiedHourpass, connection, head_of_answer
from tests.support.users import GALAHAD, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}


def ask(url: str, path: str) -> str:
    """The status."""
    with connection(url, f"GET {path} HTTP/1.1\r\nHost: model.example\r\n\r\n") as asked:
        return head_of_answer(asked)[9:12]


def test_every_path_needs_a_token_unless_it_is_opened(
    proxy: httpx.Client, url: str, model: Model, subtests: pytest.Subtests
) -> None:
    for path in PATH_CASES:
        with subtests.test(path):
            assert ask(url, path) in ("400", "401", "404")
    assert proxy.options("/predict", headers=PREFLIGHT).status_code == 401
    assert model.seen == []


def test_an_open_path_needs_no_token_in_its_own_spelling_only(
    kind: str, configured_proxy: httpx.Client, model: Model, subtests: pytest.Subtests
) -> None:
    url = str(configured_proxy.base_url)
    for path, is_open in PATH_CASES.items():
        with subtests.test(path):
            model.seen.clear()
            status = ask(url, path)
            arrived = [seen.path for seen in model.seen]
            if is_open:
                assert status == "200"
            elif kind in ("nginx", "caddy"):
                assert status in ("400", "401", "404")
                assert arrived == []
            else:  # Traefik and Envoy clean a path, and forward what they checked
                assert [other for other in arrived if not PATH_CASES.get(other)] == []


@pytest.mark.parametrize("path", ["/health", "/static/a"])
def test_an_open_path_has_no_user(
    configured_proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, path: str
) -> None:
    headers = [
        *bearer(hourpass.token(GALAHAD)).items(),
        ("X-Auth-User-Id", "1"),
        ("Remote-User", "1"),
    ]
    assert configured_proxy.post(path, headers=headers, content=b"x").status_code == 200
    (seen,) = model.seen
    for name in ("X-Auth-User-Id", "X-Auth-Username", "Remote-User", "X-Forwarded-User"):
        assert seen.values(name) in ([], [""])
    assert seen.values("Authorization") in ([], [""])


def test_a_preflight_needs_no_token_where_it_is_let_through(
    configured_proxy: httpx.Client, model: Model
) -> None:
    response = configured_proxy.options("/predict", headers=PREFLIGHT)
    assert response.status_code == 200
    assert [seen.method for seen in model.seen] == ["OPTIONS"]
    for method, headers in (("OPTIONS", {}), ("POST", PREFLIGHT), ("GET", PREFLIGHT)):
        assert configured_proxy.request(method, "/predict", headers=headers).status_code == 401
    assert len(model.seen) == 1


def test_other_paths_need_a_token_as_before(
    configured_proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = bearer(hourpass.token(GALAHAD))
    assert configured_proxy.get("/predict", headers=headers).status_code == 200
    assert configured_proxy.get("/train", headers=headers).status_code == 403
    assert [seen.path for seen in model.seen] == ["/predict"]
