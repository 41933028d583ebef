"""Headers about the user and about the client that reach a model behind each proxy of examples/."""

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.proxies import GUINEVERE, ProxiedHourpass
from tests.support.users import GALAHAD, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

# Where model servers and applications look for the user that a proxy has let in.
USER_HEADERS = """
Remote-User Remote-Email Remote-Name Remote-Groups
X-Remote-User X-Remote-Email X-Remote-Group
X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Preferred-Username
X-Forwarded-Access-Token
X-WEBAUTH-USER X-WEBAUTH-EMAIL X-WEBAUTH-NAME X-WEBAUTH-GROUPS
X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups
X-Auth-Request-Preferred-Username X-Authenticated-User X-Authenticated-Userid
X-User X-User-Id X-User-Email X-Username
""".split()  # noqa: SIM905 - easier to read than a list of as many lines
# What may stand in a name (RFC 9110, 5.6.2), and which CGI and WSGI read as a hyphen.
SEPARATORS = "-_.!#$%&'*+^`|~"


@pytest.mark.parametrize("separator", SEPARATORS)
def test_no_user_header_of_the_caller_reaches_the_model(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, separator: str
) -> None:
    headers = [("Authorization", f"Bearer {hourpass.token(GALAHAD)}")]
    for name in USER_HEADERS:
        headers += [(name.replace("-", separator), "spoofed")]
        headers += [(name.replace("-", separator, 1).lower(), "spoofed")]
    assert proxy.get("/predict", headers=headers).status_code == 200
    (seen,) = model.seen
    assert [name for name, value in seen.headers if "spoofed" in value] == []


def test_the_user_reaches_the_model_under_another_name_if_configured(
    kind: str, configured_proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = [*bearer(hourpass.token(GUINEVERE)).items(), ("X-Forwarded-User", "spoofed")]
    assert configured_proxy.get("/predict", headers=headers).status_code == 200
    (seen,) = model.seen
    expected = [] if kind == "traefik" else ["Gueni%C3%A8vre%20du%20Lac"]
    for name in ("X-Forwarded-User", "Remote-User"):
        assert seen.values(name) == expected


CLIENT_HEADERS = {
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "192.0.2.1",
    "Forwarded": "for=192.0.2.1;host=evil.example;proto=https",
}


def test_only_the_proxy_says_where_a_request_comes_from(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = {**bearer(hourpass.token(GALAHAD)), "Host": "model.example"}
    assert proxy.get("/predict", headers=headers | CLIENT_HEADERS).status_code == 200
    (seen,) = model.seen
    assert seen.values("Host") == ["model.example"]
    assert seen.values("X-Forwarded-For") == ["127.0.0.1"]
    assert seen.values("X-Real-IP") == ["127.0.0.1"]
    assert seen.values("X-Forwarded-Host") == ["model.example"]
    assert seen.values("X-Forwarded-Proto") == ["http"]
    given = [value for value in CLIENT_HEADERS.values() if value != "https"]
    assert [value for _, value in seen.headers if value in given] == []


@pytest.mark.parametrize("name", ["X-Forwarded-User", "X-Forwarded-For", "Remote-User"])
def test_the_proxys_headers_cannot_be_removed_with_connection(
    configured_proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, name: str
) -> None:
    """Connection names headers that a proxy must not pass on (RFC 9110, 7.6.1)."""
    token = hourpass.token(GALAHAD)
    expected = configured_proxy.get("/predict", headers=bearer(token))
    assert expected.status_code == 200
    values = model.seen.pop().values(name)
    headers = {**bearer(token), "Connection": f"close, {name}", name: "spoofed"}
    configured_proxy.get("/predict", headers=headers)
    assert [seen.values(name) for seen in model.seen] in ([values], [])
