"""A DATABASE_URL as hosting providers write it."""

import re
import socket
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy import make_url, text

from app.database import postgres_url
from app.database.engine import Database, describe_url, warn_of_ignored_options
from app.database.postgres_driver import PostgresConnector
from app.database.postgres_url import Host, PostgresUrl
from app.errors import StartupError
from tests.support.certificates import certificate
from tests.support.markers import on_postgresql
from tests.support.processes import free_port
from tests.support.settings import make_settings
from tests.support.silent_relay import silent_relay

SERVER = "postgresql://arthur:s3cret@db.example"


def parsed(rest: str, server: str = SERVER) -> PostgresUrl:
    return postgres_url.parse(make_settings(server + rest).database_url)


def test_options_are_translated_for_asyncpg() -> None:
    url = parsed(
        "/camelot?sslmode=require&connect_timeout=9&application_name=court&options=-c%20geqo%3Doff"
        "&keepalives=1&keepalives_idle=11&keepalives_interval=12&keepalives_count=13"
        "&tcp_user_timeout=14000&target_session_attrs=read-write&schema=round_table"
    )
    assert url.arguments == {
        "user": "arthur",
        "password": "s3cret",
        "database": "camelot",
        "dsn": "postgresql://?sslmode=require",
        "target_session_attrs": "read-write",
    }
    assert url.hosts == [Host("db.example", 5432)]
    assert url.server_settings == {
        "application_name": "court",
        "options": "-c geqo=off",
        "search_path": "round_table",
    }
    assert url.connect_seconds == 9
    assert (url.tcp.keepalive, url.tcp.idle_seconds, url.tcp.interval_seconds) == (1, 11, 12)
    assert (url.tcp.probes, url.tcp.user_timeout_ms) == (13, 14000)
    assert not url.has_pooler
    assert not url.ignored


HOSTS = {
    "none": ("postgresql:///camelot", [Host(None, None)]),
    "one": ("postgresql://h1/camelot", [Host("h1", 5432)]),
    "IPv6": ("postgresql://[::1]:5433/camelot", [Host("::1", 5433)]),
    "several": ("postgresql://h1:5433,h2/camelot", [Host("h1", 5433), Host("h2", 5432)]),
    "query": ("postgresql:///camelot?host=h1,h2&port=1", [Host("h1", 1), Host("h2", 1)]),
    "ports": ("postgresql:///camelot?host=h1,h2&port=1,2", [Host("h1", 1), Host("h2", 2)]),
    "repeated": ("postgresql:///camelot?host=h1:1&host=h2:2", [Host("h1", 1), Host("h2", 2)]),
    "socket": ("postgresql://@/camelot?host=/run/pg", [Host("/run/pg", 5432)]),
    "escaped socket": ("postgresql://%2Frun%2Fpg/camelot", [Host("/run/pg", 5432)]),
}


@pytest.mark.parametrize(("url", "hosts"), HOSTS.values(), ids=HOSTS)
def test_hosts(url: str, hosts: list[Host]) -> None:
    found = parsed("", url)
    assert found.hosts == hosts
    assert found.arguments["database"] == "camelot"
    assert found.arguments["target_session_attrs"] == ("read-write" if len(hosts) > 1 else "any")


@pytest.mark.parametrize("password", ["p@ss/w:rd", "p%40ss%2Fw%3Ard"])
def test_a_password_is_read_however_it_is_escaped(password: str) -> None:
    assert (
        parsed("", f"postgresql://arthur:{password}@h/camelot").arguments["password"] == "p@ss/w:rd"
    )


@pytest.mark.parametrize(
    "option", ["pgbouncer=true", "prepareThreshold=0", "statement_cache_size=0"]
)
def test_a_pooler_can_be_announced(option: str) -> None:
    assert parsed(f"/camelot?{option}").has_pooler


@pytest.mark.parametrize("ssl", ["ssl=true", "ssl=require", "sslmode=require"])
def test_tls_has_other_names_in_other_drivers(ssl: str) -> None:
    assert parsed(f"/camelot?{ssl}").arguments["dsn"] == "postgresql://?sslmode=require"


def test_options_without_a_counterpart_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"{SERVER}/camelot?sslmode=require&channel_binding=require&gssencmode=disable"
    warn_of_ignored_options(make_settings(url))
    [line] = caplog.records
    expected = "These options of DATABASE_URL have no effect: channel_binding, gssencmode"
    assert (line.levelname, line.getMessage()) == ("WARNING", expected)


REFUSED = {
    "unknown": ("?sslmod=require&hold=s3cret", "options that are not known: hold, sslmod"),
    "no number": ("?keepalives_idle=s3cret", "keepalives_idle must be a number"),
    "no port": (":s3cret/", "port must be a number"),
    "wrong mode": ("?sslmode=s3cret", "sslmode must be one of disable"),
    "a port of 10000 digits": (":" + 10_000 * "9", "port must be a number"),
    "port 0": (":0/", "port must be between 1 and 65535"),
    "a port that is too large": (":65536/", "port must be between 1 and 65535"),
    "a standby": ("?target_session_attrs=standby", "target_session_attrs must be read-write"),
    "no such file": ("?sslmode=verify-ca&sslrootcert=/nowhere", "cannot read sslrootcert /nowhere"),
    "ports": ("/?host=a,b&port=1,2,3", "more or fewer ports than hosts"),
}


@pytest.mark.parametrize(("rest", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unknown_option_or_value_is_refused_in_one_line(rest: str, message: str) -> None:
    with pytest.raises(StartupError, match=message) as caught:
        parsed(rest)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


UNENCODED = {
    "?": "postgresql://arthur:excali?bur@h/camelot",
    "@ and ?": "postgresql://arthur:ex@cali?bur@h/camelot",
    "? and =": "postgresql://arthur:excali?bur=x@h/camelot",
    "? and &": "postgresql://arthur:excali?sslmode=prefer&bur@h/camelot",
    "no host": "postgresql://arthur:excali?bur",
    "no host, a port": "postgresql://arthur:1234?bur",
    "no host, a name": "postgresql://arthur:excalibur/camelot",
    "no host, no ?": "postgresql://arthur:excalibur",
}


@pytest.mark.parametrize("url", UNENCODED.values(), ids=UNENCODED)
def test_no_part_of_a_password_is_shown_if_it_is_not_encoded(url: str) -> None:
    with pytest.raises(StartupError, match="DATABASE_URL") as caught:
        parsed("", url)
    assert not {"excali", "bur", "cali"} & set(re.findall(r"\w+", str(caught.value)))
    assert "%3F" in str(caught.value) or "port must be a number" in str(caught.value)


@pytest.mark.parametrize("password", ["ex#cali", "ex/cali", "ex[cali", "ex%zzcali", "ex:cali"])
def test_other_characters_of_a_password_need_no_encoding(password: str) -> None:
    url = parsed("", f"postgresql://arthur:{password}@h/camelot")
    assert (url.arguments["password"], url.hosts) == (password, [Host("h", 5432)])
    assert "cali" not in url.description


def test_the_log_shows_no_secret() -> None:
    settings = make_settings(f"{SERVER}:5433,h2/camelot?password=s3cret&sslpassword=s3cret")
    assert describe_url(settings) == "postgresql://arthur@db.example:5433,h2:5432/camelot"


def test_relative_paths_are_relative_to_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOURPASS_HOME", str(tmp_path))
    certificate(tmp_path)
    made = next(tmp_path.glob("*.pem"))
    dsn: str = parsed(f"/camelot?sslrootcert={made.name}").arguments["dsn"]
    assert unquote(dsn).endswith(f"sslrootcert={made}")
    assert "ssl" in parsed("/camelot?sslrootcert=system").arguments


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
async def test_a_host_that_is_down_or_silent_is_passed_over(database_url: str) -> None:
    url = make_url(database_url)
    path = f"{url.query['host']}/.s.PGSQL.5432"
    with silent_relay(path) as silent, silent_relay(path) as relay, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        silent.silence()
        ports = (free_port(), closed.getsockname()[1], silent.port, relay.port)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        options = "connect_timeout=1&channel_binding=prefer&options=-c%20geqo%3Doff"
        database = Database(
            make_settings(f"postgresql://postgres@{hosts}/{url.database}?{options}")
        )
        for statement, value in {"SHOW geqo": "off", "SHOW application_name": "hourpass"}.items():
            async with database.session() as session:
                assert await session.scalar(text(statement)) == value
        assert isinstance(database.connector, PostgresConnector)
        assert database.connector._hosts[0].port == relay.port  # which the next one asks first
        await database.close()
