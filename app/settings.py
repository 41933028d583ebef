"""The settings of the service. Each has one field and a description of one line.

Environment variables override the values in the file `.env` in HOURPASS_HOME (or the file that
ENV_FILE names), which override the defaults here. `NAME_FILE` names a file with the value of NAME.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.configuration.errors import describe_error, words_of
from app.configuration.sources import FileSource, find_unknown_names, read_env_file
from app.configuration.types import (
    DatabaseUrl,
    Directory,
    Issuer,
    Mailbox,
    Networks,
    Origins,
    Secrets,
    ServiceName,
    SmtpUrl,
    home,
    looks_random,
    split_secrets,
)
from app.errors import StartupError

ROOT = Path(__file__).resolve().parent.parent  # of a checkout

PLACEHOLDERS = {"a password of your own"}  # of docs/deployment.md, in versions before 0.2
JWKS_CACHE_SECONDS = 300  # Cache-Control of the key set


def env_file() -> Path:
    return Path(os.environ.get("ENV_FILE") or home() / ".env")


class Settings(BaseSettings):
    """The settings. Their names are upper case in the environment and in `.env`."""

    model_config = SettingsConfigDict(
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
    secret_key: Secrets | None = Field(None, description="encrypts signing keys, second factors, secrets of webhooks and the codes of queued mail in the database; 32 characters or more, required in production; of several between commas, the first encrypts and all decrypt")
    issuer: Issuer = Field("http://localhost:8000", min_length=1, max_length=200, description="iss of every token: the https URL, with its path, under which clients reach the service; with another PORT, the default names that one")
    service_name: ServiceName | None = Field(None, description="name of this service in authenticator apps and in mail, at most 64 characters; empty: host, path and port of ISSUER in apps, and ISSUER in mail")
    audience: str = Field("ml-api", min_length=1, max_length=200, description="aud of every token: the APIs that the tokens are for")
    token_minutes: int = Field(60, ge=1, le=1440, description="minutes that an access token is valid")
    signing_algorithm: Literal["ES256", "RS256", "HS256"] = Field("ES256", description="ES256 and RS256 use a key that the first start generates; HS256 uses HS256_SECRET")
    hs256_secret: Secrets | None = Field(None, description="the secret shared with APIs that verify HS256 tokens; 32 characters or more; of several between commas, the first signs and all verify")
    key_rotation_days: int = Field(90, ge=0, le=3650, description="days after which a new signing key is generated; 0: only by `hourpass signing-keys rotate`")
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
    cors_origins: Origins = Field((), description="origins of web pages that may call the API from a browser, such as https://app.example.org, separated by commas; empty: none")
    max_connections: int | None = Field(None, ge=10, le=1_000_000, description="connections that each worker keeps open; empty: as many as the open-files limit allows, at most 20000")
    max_connections_per_network: int | None = Field(None, ge=1, le=1_000_000, description="connections per IPv4 address or IPv6 /64 that is not in TRUSTED_PROXIES; empty: three quarters of MAX_CONNECTIONS")
    metrics_port: int | None = Field(None, ge=1, le=65535, description="port of /metrics for Prometheus, never on the public port; empty: no metrics")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address for METRICS_PORT; everybody who reaches it can read the metrics")
    outbound_networks: Networks = Field((), description="private networks that webhooks may reach, with http:// too, separated by commas, such as 10.0.0.0/8; empty: only public addresses, with https://")
    audit_days: int = Field(365, ge=30, le=36_500, description="days that entries of the audit log are kept")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level of log lines")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, otherwise json")
    # fmt: on

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - of the base class
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - of the base class
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = env_file()
        return (
            init_settings,
            env_settings,
            FileSource(settings_cls, file),
            DotEnvSettingsSource(settings_cls, file),
        )

    @property
    def secret_keys(self) -> tuple[SecretStr, ...]:
        """The values of SECRET_KEY."""
        return split_secrets(self.secret_key)

    @property
    def hs256_secrets(self) -> tuple[SecretStr, ...]:
        """The values of HS256_SECRET."""
        return split_secrets(self.hs256_secret)

    @property
    def strict_passwords(self) -> bool:
        if self.password_policy is None:
            return self.environment == "production"
        return self.password_policy == "strict"

    @model_validator(mode="before")
    @classmethod
    def _let_issuer_follow_port(cls, values: dict[str, Any]) -> dict[str, Any]:
        port = values.get("port")
        if "issuer" in values or not str(port).isdecimal() or str(port) == "0":
            return values
        return {**values, "issuer": f"http://localhost:{port}"}

    @model_validator(mode="before")
    @classmethod
    def _ignore_case_of_words(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`LOG_LEVEL=INFO` is `info`."""
        found = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if field and isinstance(value, str):
                words = {str(word).lower(): word for word in words_of(field)}
                found[name] = words.get(value.lower(), value)
        return found

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.signing_algorithm == "HS256" and self.hs256_secret is None:
            raise ValueError("SIGNING_ALGORITHM=HS256 needs HS256_SECRET")
        if (self.first_admin_username is None) != (self.first_admin_password is None):
            raise ValueError("set FIRST_ADMIN_USERNAME and FIRST_ADMIN_PASSWORD together")
        if self.smtp_url is not None and self.mail_from is None:
            raise ValueError("SMTP_URL needs MAIL_FROM")
        if self.metrics_port == self.port:
            raise ValueError("METRICS_PORT must not be PORT")
        both_set = {"session_idle_days", "session_max_days"} <= self.model_fields_set
        if both_set and self.session_idle_days > self.session_max_days:
            raise ValueError("SESSION_IDLE_DAYS must be at most SESSION_MAX_DAYS")
        return self

    @model_validator(mode="after")
    def _check_production(self) -> Self:
        if self.environment != "production":
            return self
        faults = list(self._secrets_to_replace())
        if self.secret_key is None:
            faults.append("set SECRET_KEY to 32 random characters or more")
        if self.key_announce_seconds < JWKS_CACHE_SECONDS:
            faults.append(
                f"set KEY_ANNOUNCE_SECONDS to {JWKS_CACHE_SECONDS} or more, since verifiers cache "
                "the keys for that long"
            )
        if not self.issuer.lower().startswith("https://"):  # RFC 8414, 2
            faults.append("set ISSUER to the https URL of this service")
        if not self.strict_passwords:
            faults.append("set PASSWORD_POLICY to strict, or leave it empty")
        if any(map(_is_insecure, self.cors_origins)):
            faults.append("set CORS_ORIGINS to https origins (http only for localhost)")
        if self.argon2_memory_kib < 19456 or self.argon2_passes < 2:
            faults.append("set ARGON2_MEMORY_KIB and ARGON2_PASSES to OWASP's 19456 and 2 or more")
        if faults:
            raise ValueError("not safe for production: " + "; ".join(faults))
        return self

    def _secrets_to_replace(self) -> Iterator[str]:
        for name, values in (
            ("SECRET_KEY", self.secret_keys),
            ("HS256_SECRET", self.hs256_secrets),
        ):
            if not all(looks_random(value.get_secret_value()) for value in values):
                each = "each value of " if len(values) > 1 else ""
                yield (
                    f"set {each}{name} to random characters, such as the output of "
                    "`openssl rand -hex 32`"
                )
        password = self.first_admin_password
        if password and password.get_secret_value() in PLACEHOLDERS:
            yield "set FIRST_ADMIN_PASSWORD to a password of your own"


def _is_insecure(origin: str) -> bool:
    """Whether an attacker on the network can change the pages of this origin."""
    scheme, _, host = origin.partition("://")
    return scheme == "http" and host.partition(":")[0] not in ("localhost", "127.0.0.1")


class InvalidSettingsError(StartupError):
    """One line for each setting that is wrong, which says what to write."""


def find_errors(values: Mapping[str, str]) -> list[str]:
    """What is wrong with settings of these values alone: neither the environment nor a file is
    read. One line for each, as in InvalidSettingsError."""
    settings = Settings.__new__(Settings)
    try:
        BaseModel.__init__(settings, **{name.lower(): value for name, value in values.items()})
    except ValidationError as error:
        return [describe_error(problem, Settings.model_fields) for problem in error.errors()]
    return []


def load_settings() -> tuple[Settings, list[str]]:
    """The settings, and warnings. Raises InvalidSettingsError; in production also for a warning."""
    file = env_file()
    try:
        read_env_file(file)
        settings = Settings()
        warnings = list(find_unknown_names(Settings.model_fields, file))
    except ValidationError as error:
        lines = [describe_error(problem, Settings.model_fields) for problem in error.errors()]
        raise InvalidSettingsError("\n".join(lines)) from None
    except SettingsError as error:
        raise InvalidSettingsError(str(error)) from None
    if os.environ.get("ENV_FILE") and not file.exists():
        warnings.insert(0, f"ENV_FILE names {file}, which does not exist.")
    if warnings and settings.environment == "production":
        raise InvalidSettingsError("\n".join(warnings))
    return settings, warnings
