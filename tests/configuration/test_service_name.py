"""The name of the service in authenticator apps and in mail."""

from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from pydantic import ValidationError

from app.credentials.second_factors import codes
from app.mail.messages import compose
from app.settings import Settings
from tests.support.apps import started_client
from tests.support.authenticator import begin
from tests.support.markers import on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import ARTHUR

ISSUER = "https://login.camelot.example:8443/staging"


@pytest.mark.parametrize(
    ("issuer", "label"),
    [
        ("https://login.camelot.example", "login.camelot.example"),
        ("https://login.camelot.example:443/", "login.camelot.example"),
        ("https://login.camelot.example/auth", "login.camelot.example/auth"),
        ("https://login.camelot.example/staging/auth/", "login.camelot.example/staging/auth"),
        ("https://login.camelot.example:8443", "login.camelot.example (port 8443)"),
        ("https://merlin@camelot.example:8443/x", "camelot.example/x (port 8443)"),
        ("http://localhost:8000", "localhost (port 8000)"),
        ("http://localhost:80", "localhost"),
        ("localhost:443", "localhost (port 443)"),
        ("https://[2001:db8::7]", "2001-db8--7"),
        ("https://[2001:db8::7]:8443/auth", "2001-db8--7/auth (port 8443)"),
        ("http://[::1", "http-//[--1"),
        ("urn:example:camelot", "urn-example-camelot"),
        ("Camelot", "Camelot"),
        ("://", "Hourpass"),
    ],
)
def test_two_services_on_one_host_have_different_labels(issuer: str, label: str) -> None:
    uri = codes.uri("JBSWY3DPEHPK3PXP", "lancelot", codes.service_label(issuer))
    assert unquote(urlsplit(uri).path) == f"/{label}:lancelot"
    assert parse_qs(urlsplit(uri).query)["issuer"] == [label]


@on_sqlite
async def test_service_name_is_the_label(settings: Settings, clock: Clock) -> None:
    named = make_settings(
        settings.database_url, **ARTHUR_ADMINISTERS, service_name="Camelot + Grail"
    )
    async with started_client(named, clock) as client:
        authenticator, _ = await begin(client, ARTHUR, clock)
    assert authenticator.label == "/Camelot%20%2B%20Grail:arthur"
    assert authenticator.parameters["issuer"] == "Camelot + Grail"


@pytest.mark.parametrize("name", [None, "Camelot + Grail", "Käfer"])
def test_mail_has_the_name_or_the_issuer(name: str | None) -> None:
    settings = make_settings(
        "sqlite:///x.db", service_name=name, issuer=ISSUER, mail_from="x@camelot.example"
    )
    message = compose(settings, "reset", "ada@camelot.example", "", code="CODE")
    assert message["Subject"] == f"A new password for {name or ISSUER}"
    assert f" at {name or ISSUER}." in message.get_content().replace("\n", " ")


@pytest.mark.parametrize(
    "name",
    ["x" * 65, "a:b", " a", "a\nBcc: x@y.example", "a\u200bb", "a\u202eb", "a\u2028b"],
    ids=["long", "colon", "space", "line break", "invisible", "direction", "line separator"],
)
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="service_name"):
        make_settings("sqlite:///x.db", service_name=name)
    assert make_settings("sqlite:///x.db", service_name="x" * 64).service_name == "x" * 64
