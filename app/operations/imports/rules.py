"""Checks imported users against the rules of this service.

Computes no password hash of a file: the parameters of one could cost hours.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import SecretStr, TypeAdapter, ValidationError

from app.errors import InvalidRequestError
from app.operations.imports.errors import LeftOutError, Reason
from app.operations.imports.records import ImportedUser, Options
from app.security.hash_costs import MAX_BYTES, cost_of
from app.security.passwords import Password, Passwords
from app.settings import Settings
from app.tokens.token_size import require_room
from app.users.login_account import normalize_username
from app.users.models import UNUSABLE_PASSWORD, new_token_version, normalize_email
from app.users.schemas import (
    SERVICE_PREFIX,
    Email,
    Scopes,
    Username,
    has_service_prefix,
)
from hourpass.scopes import scope_string

_MAX_HASH_LENGTH = 255  # of the column
_MAX_ROLES_LENGTH = 65_536  # of one user. Those of a batch are in memory
_CACHED_SCOPES = 1_000
_MIN_DIGEST_LENGTH = 22  # in base64: 16 bytes

_USERNAME: TypeAdapter[str] = TypeAdapter(Username)
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_PASSWORD: TypeAdapter[Any] = TypeAdapter(Password)
_SCOPES: TypeAdapter[list[str]] = TypeAdapter(Scopes)


class NewUser(NamedTuple):
    """`values` are columns of the table. `imported` has what is stored elsewhere, and `password` is
    the one to hash, if any."""

    imported: ImportedUser
    values: dict[str, Any]
    scopes: frozenset[str]
    password: SecretStr | None

    @property
    def normalized_name(self) -> str:
        name: str = self.values["username_folded"]
        return name


class Rules:
    def __init__(self, passwords: Passwords, settings: Settings, options: Options) -> None:
        self._passwords = passwords
        self._options = options

        @lru_cache(_CACHED_SCOPES)
        def check_room(scopes: str) -> None:
            require_room(settings, scopes.split())

        self._check_room = check_room

    def check(self, imported: ImportedUser, now: datetime) -> NewUser:
        """Raises LeftOutError."""
        username = _check_username(imported)
        email = _validate(_EMAIL, imported.email, Reason.EMAIL) if imported.email else None
        scopes = self._check_scopes(imported)
        if imported.second_factor_fault and not self._options.drop_second_factors:
            raise imported.second_factor_fault
        password_hash, password = self._check_password(imported)
        values = {
            "username": username,
            "username_folded": normalize_username(username),
            "email": email,
            "email_folded": normalize_email(email) if email else None,
            "email_verified_at": now if email and imported.email_verified else None,
            "password_hash": password_hash,
            "is_enabled": imported.is_enabled,
            "is_admin": imported.is_admin or "admin" in scopes,
            "scopes": scope_string(scopes - {"admin"}),
            "token_epoch": new_token_version(),
            "created_at": min(imported.created_at or now, now),
        }
        return NewUser(imported, values, scopes, password)

    def _check_scopes(self, imported: ImportedUser) -> frozenset[str]:
        if sum(map(len, imported.roles)) > _MAX_ROLES_LENGTH:
            detail = f"The roles have more than {_MAX_ROLES_LENGTH:,} characters"
            raise LeftOutError(Reason.RECORD, detail)
        scopes = set(imported.scopes)
        for role in imported.roles:
            scopes |= self._options.scopes.get(role, frozenset())
        granted = scopes | ({"admin"} if imported.is_admin else set())
        _validate(_SCOPES, sorted(scopes - {"admin"}), Reason.SCOPES)
        try:
            self._check_room(scope_string(scopes - {"admin"}))
        except InvalidRequestError as error:
            raise LeftOutError(Reason.SCOPES, str(error)) from None
        return frozenset(granted)

    def _check_password(self, imported: ImportedUser) -> tuple[str, SecretStr | None]:
        """The hash to store, and the password to hash instead. Raises LeftOutError."""
        try:
            if imported.password_fault:
                raise imported.password_fault
            if imported.password is not None:
                return UNUSABLE_PASSWORD, _validate(_PASSWORD, imported.password, Reason.PASSWORD)
            if imported.password_hash is None:
                return UNUSABLE_PASSWORD, None
            self._check_hash(imported.password_hash)
        except LeftOutError:
            if not self._options.drop_passwords:
                raise
            return UNUSABLE_PASSWORD, None
        return imported.password_hash, None

    def _check_hash(self, password_hash: str) -> None:
        """Raises LeftOutError."""
        cost = cost_of(password_hash) if len(password_hash) <= _MAX_HASH_LENGTH else None
        # PostgreSQL refuses a NUL even in a salt.
        if cost is None or not (password_hash.isascii() and password_hash.isprintable()):
            raise LeftOutError(Reason.HASH, "docs/import.md lists the supported kinds")
        if cost.memory > MAX_BYTES:
            needed = f"It needs {cost.memory / 2**20:,.0f} MiB of memory"
            raise LeftOutError(
                Reason.COST, f"{needed}, and at most {MAX_BYTES // 2**20} are allowed"
            )
        if (seconds := cost.seconds()) > self._options.max_hash_seconds:
            bound = f"at most {self._options.max_hash_seconds:g} are allowed"
            raise LeftOutError(Reason.COST, f"It takes {seconds:,.1f} seconds, and {bound}")
        if not self._passwords.can_verify(password_hash):
            raise LeftOutError(Reason.HASH, "It is damaged")
        # Other passwords would match a part of a digest.
        if len(password_hash.rpartition("$")[2].rstrip("=")) < _MIN_DIGEST_LENGTH:
            raise LeftOutError(Reason.HASH, "It is shorter than 16 bytes")


def _check_username(imported: ImportedUser) -> str:
    """The e-mail address, if there is no username. Raises LeftOutError."""
    given = imported.username or imported.email
    if given is None:
        raise LeftOutError(Reason.USERNAME, "There is no username and no e-mail address")
    username: str = _validate(_USERNAME, given, Reason.USERNAME)
    if has_service_prefix(username):
        rule = f"Must not begin with {SERVICE_PREFIX}, as names of service accounts do"
        raise LeftOutError(Reason.USERNAME, rule)
    return username


def _validate(adapter: TypeAdapter[Any], value: Any, reason: Reason) -> Any:
    """Raises LeftOutError."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise LeftOutError(reason, error.errors(include_input=False)[0]["msg"]) from None
