"""The settings of the service. Each has one field and a description of one line.

Environment variables override the values in the file `.env` in HOURPASS_HOME (or the file that
ENV_FILE names), which override the defaults here.
"""

import os
import re
from email.utils import formataddr, parseaddr
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent  # of a checkout
# What relative paths are relative to. Not the code, which may be installed in site-packages.
HOME = Path(os.environ.get("HOURPASS_HOME", "")).absolute()
ENV_FILE = Path(os.environ.get("ENV_FILE") or HOME / ".env")

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def _with_async_driver(url: str) -> str:
    """Add the async driver, so that the URL of a hosting provider can be used as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _DRIVERS:
        raise ValueError("must begin with sqlite:/// or postgresql://")
    if _DRIVERS[scheme].startswith("sqlite"):
        path = rest.removeprefix("/").partition("?")[0]  # SQLite has no options
        if not path or path.startswith((":memory:", "file:")):
            raise ValueError("must name a database file, such as sqlite:///hourpass.db")
        rest = f"/{HOME / path}"
    return f"{_DRIVERS[scheme]}://{rest}"


def _check_length(secret: SecretStr) -> SecretStr:
    if not 32 <= len(secret.get_secret_value()) <= 1024:
        raise ValueError("must have between 32 and 1024 characters")
    return secret


def _split_networks(value: object) -> object:
    """Split a comma-separated environment variable."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


Network = IPv4Network | IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split_networks)]
Secret = Annotated[SecretStr, AfterValidator(_check_length)]


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


SMTP_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}

SmtpUrl = Annotated[SecretStr, AfterValidator(_check_smtp_url)]
ServiceName = Annotated[str, Field(max_length=64), AfterValidator(_check_service_name)]
Mailbox = Annotated[str, AfterValidator(_normalize_mailbox)]
Directory = Annotated[Path, AfterValidator(lambda path: HOME / path)]
DatabaseUrl = Annotated[str, AfterValidator(_with_async_driver)]


class Settings(BaseSettings):
    """The settings. Their names are upper case in the environment and in `.env`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",  # .env may also have variables of docker compose
        frozen=True,
        hide_input_in_errors=True,  # do not print rejected secrets
        validate_default=True,
    )

    # fmt: off
    environment: Literal["development", "production"] = Field("development", description="production refuses to start with settings that are only safe for development")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv4 and IPv6")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, le=256, description="number of worker processes; about one per core")
    database_url: DatabaseUrl = Field("sqlite:///hourpass.db", description="sqlite:///FILE (relative to HOURPASS_HOME) or postgresql://USER:PASSWORD@HOST/NAME")
    database_pool_size: int = Field(10, ge=1, le=500, description="database connections in the pool of each worker, which opens up to two more")
    secret_key: Secret | None = Field(None, description="encrypts signing keys, second factors and the codes of queued mail in the database; 32 characters or more, required in production")
    issuer: str = Field("http://localhost:8000", min_length=1, max_length=200, description="iss of every token: the https URL, with its path, under which clients reach the service; with another PORT, the default names that one")
    service_name: ServiceName | None = Field(None, description="name of this service in authenticator apps and in mail, at most 64 characters; empty: host, path and port of ISSUER in apps, and ISSUER in mail")
    audience: str = Field("ml-api", min_length=1, max_length=200, description="aud of every token: the APIs that the tokens are for")
    token_minutes: int = Field(60, ge=1, le=1440, description="minutes that an access token is valid")
    signing_algorithm: Literal["ES256", "RS256", "HS256"] = Field("ES256", description="ES256 and RS256 use a key that the first start generates; HS256 uses HS256_SECRET")
    hs256_secret: Secret | None = Field(None, description="the secret shared with APIs that verify HS256 tokens; 32 characters or more")
    key_rotation_days: int = Field(90, ge=0, le=3650, description="days after which a new signing key is generated; 0: only by `hourpass keys rotate`")
    key_announce_seconds: int = Field(600, ge=0, le=86400, description="seconds between publishing a new key and signing with it; longer than verifiers cache the JWKS (300)")
    user_actions_per_hour: int = Field(600, ge=1, le=1_000_000, description="logins per user and hour, which may all come at once, and the same number of revoked access tokens; more get 429")
    session_idle_days: int = Field(14, ge=1, le=365, description="days without use after which a session (offline_access) expires")
    session_max_days: int = Field(90, ge=1, le=3650, description="days after which a session expires in any case")
    first_admin_username: str | None = Field(None, description="username of the first administrator, created at start if the database has never had one")
    first_admin_password: SecretStr | None = Field(None, description="that administrator's password; remove it once the account exists")
    password_policy: Literal["basic", "strict"] | None = Field(None, description="strict (at least 8 characters, no common passwords) or basic; empty: strict in production, otherwise basic")
    argon2_memory_kib: int = Field(19456, ge=8, le=4_194_304, description="memory per password hash in KiB (OWASP: 19456)")
    argon2_passes: int = Field(2, ge=1, le=100, description="passes per password hash (OWASP: 2)")
    hashing_threads: int | None = Field(None, ge=1, le=256, description="passwords that each worker hashes at the same time; empty: one per core of the container, at most 8, in a quarter of its memory")
    hashing_queue: int = Field(250, ge=0, le=100_000, description="passwords that may wait to be hashed; more get 503")
    old_guards: bool = Field(default=True, description="also revoke the tokens of each member of a narrowed group, for guards before version 0.2, which do not know groups; set it to false when all guards are newer")
    admin_second_factor: Literal["optional", "required"] = Field("optional", description="required: administrators who log in without a second factor do not get the admin scope")
    registration: Literal["open", "invite", "closed"] = Field("open", description="invite: only with an invitation (POST /invitations); closed: only administrators create users (POST /users)")
    smtp_url: SmtpUrl | None = Field(None, description="smtp://USER:PASSWORD@HOST sends mail with STARTTLS, smtps:// with TLS, smtp+plain:// without encryption; empty: no mail, administrators hand out codes")
    mail_from: Mailbox | None = Field(None, description="sender of the mail, such as Hourpass <no-reply@example.org>")
    mail_templates: Directory | None = Field(None, description="directory (relative to HOURPASS_HOME) of your own mail templates, such as LANGUAGE/reset.txt; others come from app/mail/templates")
    trusted_proxies: Networks = Field((), description="IP addresses or networks of your proxies, separated by commas: X-Forwarded-For from them is trusted")
    max_connections: int | None = Field(None, ge=10, le=1_000_000, description="connections that each worker keeps open; empty: as many as the open-files limit allows, at most 20000")
    max_connections_per_network: int | None = Field(None, ge=1, le=1_000_000, description="connections per IPv4 address or IPv6 /64 that is not in TRUSTED_PROXIES; empty: three quarters of MAX_CONNECTIONS")
    audit_days: int = Field(365, ge=30, le=36_500, description="days that entries of the audit log are kept")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level of log lines")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, otherwise json")
    # fmt: on

    @property
    def strict_passwords(self) -> bool:
        if self.password_policy is None:
            return self.environment == "production"
        return self.password_policy == "strict"

    @model_validator(mode="before")
    @classmethod
    def _let_issuer_follow_port(cls, values: dict[str, Any]) -> dict[str, Any]:
        port = values.get("port")
        if "issuer" in values or port is None or str(port) == "0":
            return values
        return {**values, "issuer": f"http://localhost:{port}"}

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.signing_algorithm == "HS256" and self.hs256_secret is None:
            raise ValueError("SIGNING_ALGORITHM=HS256 needs HS256_SECRET")
        if (self.first_admin_username is None) != (self.first_admin_password is None):
            raise ValueError("set FIRST_ADMIN_USERNAME and FIRST_ADMIN_PASSWORD together")
        if self.smtp_url is not None and self.mail_from is None:
            raise ValueError("SMTP_URL needs MAIL_FROM")
        return self

    @model_validator(mode="after")
    def _check_production(self) -> Self:
        if self.environment != "production":
            return self
        faults = []
        if self.secret_key is None:
            faults.append("set SECRET_KEY to 32 random characters or more")
        if not self.issuer.lower().startswith("https://"):  # RFC 8414, 2
            faults.append("set ISSUER to the https URL of this service")
        if not self.strict_passwords:
            faults.append("set PASSWORD_POLICY to strict, or leave it empty")
        if self.argon2_memory_kib < 19456 or self.argon2_passes < 2:
            faults.append("set ARGON2_MEMORY_KIB and ARGON2_PASSES to OWASP's 19456 and 2 or more")
        if faults:
            raise ValueError("not safe for production: " + "; ".join(faults))
        return self
