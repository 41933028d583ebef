"""DATABASE_URL for PostgreSQL, as hosting providers write it: libpq's options, those of poolers and
those of other languages' drivers, translated for asyncpg."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from app.configuration.types import home
from app.database.connector import CONNECT_SECONDS
from app.errors import StartupError

MAX_CONNECT_SECONDS = 30.0
MAX_PORT = 65535
MAX_DIGITS = 9  # of any number

_SCHEME = "postgresql+asyncpg://"  # settings.py adds the driver
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
_TLS = (
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ARGUMENTS = ("user", "password", "passfile", "krbsrvname", "gsslib")
_PLACES = ("host", "port", "dbname", "database")
_TCP = {
    "keepalives": "keepalive",
    "keepalives_idle": "idle_seconds",
    "keepalives_interval": "interval_seconds",
    "keepalives_count": "probes",
    "tcp_user_timeout": "user_timeout_ms",
}
_SERVER_SETTINGS = {  # names of the server
    "application_name": "application_name",
    "fallback_application_name": "application_name",
    "options": "options",
    "search_path": "search_path",
    "schema": "search_path",  # Prisma
    "currentSchema": "search_path",  # JDBC
}
# Values with which drivers are told not to use prepared statements.
_POOLER = {
    "pgbouncer": "true",
    "prepared_statements": "false",
    "prepareThreshold": "0",
    "statement_cache_size": "0",
    "prepared_statement_cache_size": "0",
}
_WITHOUT_COUNTERPART = frozenset(
    (
        *("channel_binding", "client_encoding", "gssdelegation", "gssencmode"),
        *("load_balance_hosts", "max_protocol_version", "min_protocol_version", "require_auth"),
        *("requirepeer", "sslcertmode", "sslcompression", "sslsni"),
        *("connection_limit", "pool_timeout", "socket_timeout", "sslaccept"),  # Prisma
    )
)
_WRITABLE = ("any", "read-write", "primary")


class Host(NamedTuple):
    name: str | None  # None: asyncpg reads PGHOST, then tries the usual sockets
    port: int | None


@dataclass(frozen=True, slots=True)
class TcpOptions:
    keepalive: int = 1
    idle_seconds: int = 30
    interval_seconds: int = 5
    probes: int = 3
    user_timeout_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    arguments: Mapping[str, Any]  # of asyncpg.connect(), the same for each host
    hosts: Sequence[Host]
    server_settings: Mapping[str, str]
    tcp: TcpOptions
    connect_seconds: float  # for each host
    has_pooler: bool
    ignored: Sequence[str]  # names of options
    description: str  # without secrets


def parse(url: str) -> PostgresUrl:
    """Raises StartupError with one line that names the option, but not its value."""
    before, _, query = url.removeprefix(_SCHEME).partition("?")
    user_info, _, place = before.rpartition("@")  # a password may contain `@` and `/`
    user, _, password = user_info.partition(":")
    host_list, _, database = place.partition("/")
    given = parse_qsl(query, keep_blank_values=True)
    options = dict(given)  # of a repeated option, the last one counts
    translate_ssl(options)
    hosts = _hosts(host_list, [value for name, value in given if name == "host"], options)
    _check_names(options, query)
    for name in _FILES:
        if name in options and options[name] != "system":
            options[name] = str(home() / options[name])
    in_query = {name: options[name] for name in _ARGUMENTS if options.get(name)}
    arguments = {"user": unquote(user), "password": unquote(password)} | in_query
    arguments["database"] = unquote(database) or options.get("database", options.get("dbname", ""))
    arguments = {name: value for name, value in arguments.items() if value}
    target = _target(options.get("target_session_attrs", "any"), len(hosts))
    settings = {"application_name": "hourpass"}
    settings |= {
        _SERVER_SETTINGS[name]: options[name] for name in _SERVER_SETTINGS & options.keys()
    }
    name = arguments.get("database", "")
    return PostgresUrl(
        arguments={**arguments, **_tls(options), "target_session_attrs": target},
        hosts=hosts,
        server_settings=settings,
        tcp=TcpOptions(**{_TCP[o]: _number(o, options[o]) for o in _TCP if o in options}),
        connect_seconds=_connect_seconds(options.get("connect_timeout", "0")),
        has_pooler=any(options.get(o, "").lower() == value for o, value in _POOLER.items()),
        ignored=sorted(_WITHOUT_COUNTERPART & options.keys()),
        description="postgresql://"
        + (quote(arguments["user"]) + "@" if "user" in arguments else "")
        + ",".join(_with_port(host) for host in hosts)
        + f"/{quote(name)}",
    )


def translate_ssl(options: dict[str, str]) -> None:
    """Replace `ssl`, which is asyncpg's name for `sslmode` and a switch in other drivers."""
    if "ssl" in options:
        mode = options.pop("ssl").lower()
        switch = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
        options.setdefault("sslmode", switch.get(mode, mode))


def _check_names(options: Mapping[str, str], query: str) -> None:
    known = {*_TLS, *_ARGUMENTS, *_PLACES, *_TCP, *_SERVER_SETTINGS, *_POOLER}
    known |= {*_WITHOUT_COUNTERPART, "connect_timeout", "target_session_attrs"}
    if unknown := sorted(options.keys() - known):
        # Never a part of a password: it may have a `?`, and end with the `@` before the host.
        if "@" in query or not all(options[name] for name in unknown):
            raise StartupError(
                "DATABASE_URL has options that are not known. Write a ? in the user or password as "
                "%3F, and @ in an option as %40."
            )
        raise StartupError(
            f"DATABASE_URL has options that are not known: {', '.join(unknown)}. Remove them."
        )


def _hosts(host_list: str, in_query: Sequence[str], options: Mapping[str, str]) -> list[Host]:
    """From `//H1:5432,H2:5432/`, `?host=H1,H2&port=5432,5433` or a repeated `?host=H1:5432`."""
    texts = [text for part in (in_query or [host_list]) for text in part.split(",") if text]
    hosts = [_host(text) for text in texts] or [Host(None, None)]
    ports = [_port(text) for text in options.get("port", "").split(",") if text]
    if len(ports) not in (0, 1, len(hosts)):
        raise StartupError("DATABASE_URL has more or fewer ports than hosts.")
    if len(ports) == 1:
        ports *= len(hosts)
    given = [host._replace(port=port) for host, port in zip(hosts, ports, strict=False)]
    return given or hosts


def _host(text: str) -> Host:
    if text.startswith("["):  # IPv6
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") > 1 or text.startswith("/"):
        name, port = text, ""
    else:
        name, _, port = text.partition(":")
    return Host(unquote(name) or None, _port(port) if port else 5432 if name else None)


def _with_port(host: Host) -> str:
    name = host.name or ""
    if name.startswith("/") or host.port is None:
        return quote(name, safe="")
    return f"[{name}]:{host.port}" if ":" in name else f"{name}:{host.port}"


def _target(target: str, number_of_hosts: int) -> str:
    if target not in _WRITABLE:
        raise StartupError(
            "DATABASE_URL: target_session_attrs must be read-write, primary or any, because "
            "Hourpass writes to its database."
        )
    # Of several hosts, one is the primary. With a single one, a standby can still be read.
    return "read-write" if target == "any" and number_of_hosts > 1 else target


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    """asyncpg reads the files of a DSN, at each connection."""
    mode = options.get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise StartupError(f"DATABASE_URL: sslmode must be one of {', '.join(_SSL_MODES)}.")
    for name in _FILES:
        if name in options and options[name] != "system":
            try:
                Path(options[name]).read_bytes()
            except OSError as error:
                raise StartupError(
                    f"DATABASE_URL: cannot read {name} {options[name]}: {error.strerror}."
                ) from error
    if options.get("sslrootcert") != "system":
        return {"dsn": "postgresql://?" + urlencode({n: options[n] for n in _TLS if n in options})}
    context = ssl.create_default_context()  # libpq demands verify-full with it, too
    if "sslcert" in options:
        password = options.get("sslpassword", "")
        context.load_cert_chain(options["sslcert"], options.get("sslkey"), lambda: password)
    return {"ssl": context}


def _connect_seconds(text: str) -> float:
    seconds = _number("connect_timeout", text)
    return min(seconds, MAX_CONNECT_SECONDS) if seconds else CONNECT_SECONDS


def _port(text: str) -> int:
    port = _number("port", text)
    if not 1 <= port <= MAX_PORT:
        raise StartupError(f"DATABASE_URL: port must be between 1 and {MAX_PORT}.")
    return port


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise StartupError(f"DATABASE_URL: {name} must be a number.")
    return int(text)
