"""The kinds of values that settings have. Raises ValueError with what to write, and no secret."""

import os
import re
from email.utils import formataddr, parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

MAX_ORIGINS = 100
_ORIGIN = re.compile(r"(https?)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")

MIN_DISTINCT_CHARACTERS = 8  # of a secret; 32 random hexadecimal digits have more
SECRET_LENGTHS = range(32, 1025)
MAX_SECRETS = 5  # between commas

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def home() -> Path:
    """The directory of relative paths: HOURPASS_HOME, or the current one. Not that of the code,
    which may be installed in site-packages."""
    return Path(os.environ.get("HOURPASS_HOME", "")).absolute()


def _with_async_driver(url: str) -> str:
    """Add the async driver, so that the URL of a hosting provider can be used as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _DRIVERS:
        raise ValueError("must begin with sqlite:/// or postgresql://")
    if _DRIVERS[scheme].startswith("sqlite"):
        path = rest.removeprefix("/").partition("?")[0]  # SQLite has no options
        if not path or path.startswith((":memory:", "file:")):
            raise ValueError("must name a database file, such as sqlite:///hourpass.db")
        rest = f"/{home() / path}"
    return f"{_DRIVERS[scheme]}://{rest}"


def split_secrets(secret: SecretStr | None) -> tuple[SecretStr, ...]:
    """The values between the commas. Unless each of them is long enough for a secret, the text is
    one secret that contains commas, as all were before there could be several."""
    if secret is None:
        return ()
    values = [value.strip() for value in secret.get_secret_value().split(",")]
    if len(values) == 1 or not all(len(value) in SECRET_LENGTHS for value in values):
        return (secret,)
    return tuple(SecretStr(value) for value in dict.fromkeys(values))


def _check_secrets(secret: SecretStr) -> SecretStr:
    values = split_secrets(secret)
    if len(values) > MAX_SECRETS:
        raise ValueError(f"must have at most {MAX_SECRETS} values between commas")
    if any(len(value) not in SECRET_LENGTHS for value in values):
        each = " in each value between commas" if "," in secret.get_secret_value() else ""
        raise ValueError(f"must have between 32 and 1024 characters{each}")
    return secret


def _split_networks(value: object) -> object:
    """Split a comma-separated environment variable."""
    if isinstance(value, str):
        return [_network(item.strip()) for item in value.split(",") if item.strip()]
    return value


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            "must be IP addresses or networks such as 10.0.0.0/8, separated by commas"
        ) from None
    if network.prefixlen < network.max_prefixlen and text.partition("/")[0] != str(
        network.network_address
    ):
        raise ValueError(f"must name a network by its first address: {network}")
    return network


def _split_origins(value: object) -> object:
    """Split a comma-separated environment variable."""
    if not isinstance(value, str):
        return value
    origins = [_origin(item.strip()) for item in value.split(",") if item.strip()]
    if len(origins) > MAX_ORIGINS:
        raise ValueError(f"must have at most {MAX_ORIGINS} origins")
    return origins


def _origin(text: str) -> str:
    """As browsers send it: in lower case, and without a port that is the default."""
    if text.lower() in ("*", "null"):
        raise ValueError(
            f"must not have {text}, which would allow every website: name each origin, such as "
            "https://app.example.org"
        )
    found = _ORIGIN.fullmatch(text.lower())
    if not found or int(found["port"] or 1) not in range(1, 65536):
        raise ValueError(
            "must be origins such as https://app.example.org or http://localhost:3000, separated "
            "by commas: scheme, host (in ASCII) and port, without a slash at the end"
        )
    scheme, host, port = found.groups()
    is_default = int(port or 0) in (0, {"http": 80, "https": 443}[scheme])
    return f"{scheme}://{host}" if is_default else f"{scheme}://{host}:{int(port)}"


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_origins)]
Network = IPv4Network | IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split_networks)]
Secrets = Annotated[SecretStr, AfterValidator(_check_secrets)]


def _split_url(url: str) -> SplitResult:
    """Raises ValueError, which names a character and nothing else of the URL. Those of the library
    quote it, and for them a password ends at the first `#`."""
    credentials = url.partition("://")[2].rpartition("@")[0]
    for character in "/?#[]":
        if character in credentials:
            encoded = quote(character, safe="")
            raise ValueError(f"must have the {character} in its user or password as {encoded}")
    try:
        parts = urlsplit(url)
        _ = parts.port  # reading it raises ValueError above 65535
    except ValueError:
        raise ValueError(
            "must be a URL with a port between 1 and 65535, if any, and with special characters of "
            "the user and password percent-encoded"
        ) from None
    return parts


def _check_smtp_url(url: SecretStr) -> SecretStr:
    parts = _split_url(url.get_secret_value())
    if parts.scheme not in SMTP_PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError("must be smtp://, smtps:// or smtp+plain:// and a host")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("needs user and password, or neither")
    if parts.scheme == "smtp+plain" and parts.username:
        raise ValueError("must not send a password without TLS")
    if parts.query or parts.fragment:
        raise ValueError("must end with the host, or the port")
    if parts.port == 0:
        raise ValueError("must name a port above 0")
    return url


def _normalize_mailbox(value: str) -> str:
    from email.policy import SMTP

    name, address = parseaddr(value)  # ignores what follows the first address
    is_address = re.fullmatch(r"[!-~]+@[!-~]+\.?[!-~]*", address) and "=?" not in address
    if "\n" in value or "\r" in value or not is_address or not _is_one_mailbox(value):
        raise ValueError(
            "must be one e-mail address, or a name and <an address>; put a name with , : ; or @ "
            'into "quotation marks"'
        )
    mailbox = formataddr((name, address))
    SMTP.header_factory("From", mailbox)  # raises ValueError for a line break in an encoded word
    return mailbox


def _is_one_mailbox(value: str) -> bool:
    """Neither several addresses, nor a group of them (RFC 5322, 3.4), nor more beside them."""
    from email.errors import InvalidHeaderDefect
    from email.policy import SMTP

    header = SMTP.header_factory("From", value)
    has_defect = any(isinstance(defect, InvalidHeaderDefect) for defect in header.defects)
    is_group = any(group.display_name is not None for group in header.groups)
    return len(header.addresses) == 1 and not is_group and not has_defect


def _check_service_name(name: str) -> str:
    if not name.isprintable() or name != name.strip() or ":" in name:
        raise ValueError("must be printable, without a colon and without spaces around it")
    return name


def _check_issuer(issuer: str) -> str:
    parts = _split_url(issuer)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// (or http:// in development)")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query and fragment (RFC 8414, 2)")
    return issuer


def _check_directory(path: Path) -> Path:
    directory = home() / path
    if not directory.is_dir():
        raise ValueError("must name a directory that exists")
    return directory


SMTP_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}

SmtpUrl = Annotated[SecretStr, AfterValidator(_check_smtp_url)]
ServiceName = Annotated[str, Field(max_length=64), AfterValidator(_check_service_name)]
Mailbox = Annotated[str, AfterValidator(_normalize_mailbox)]
Directory = Annotated[Path, AfterValidator(_check_directory)]
Issuer = Annotated[str, AfterValidator(_check_issuer)]
DatabaseUrl = Annotated[str, AfterValidator(_with_async_driver)]


def looks_random(secret: str) -> bool:
    """False for placeholders, sentences and repeated characters. Of random secrets, one in a
    thousand has no digit."""
    is_text = any(character.isspace() for character in secret) or not any(
        character.isdigit() for character in secret
    )
    return not is_text and len(set(secret)) >= MIN_DISTINCT_CHARACTERS
