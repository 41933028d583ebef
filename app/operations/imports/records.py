"""Users of other systems in one form, and the options of an import."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from app.operations.imports.errors import LeftOutError

MAX_HASH_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedUser:
    """A user as a reader returns it. rules.py checks it against the rules of this service."""

    username: str | None = None  # None: the e-mail address
    email: str | None = None
    email_verified: bool = False
    is_enabled: bool = True
    is_admin: bool = False
    scopes: tuple[str, ...] = ()
    # Roles, groups and permissions of the other system. Those of Options.scopes have an effect.
    roles: tuple[str, ...] = ()
    password_hash: str | None = field(default=None, repr=False)  # as imported_hashes.py reads it
    password: SecretStr | None = None  # if the other system stores it. It is hashed
    totp_secret: bytes | None = field(default=None, repr=False)
    created_at: datetime | None = None
    # Why the password or the second factor cannot be imported. The user is left out, unless an
    # option drops it.
    password_fault: LeftOutError | None = None
    second_factor_fault: LeftOutError | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """`columns` name the column of the file for our fields, `scopes` our scopes for roles."""

    columns: Mapping[str, str] = field(default_factory=dict)
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    hashes: Path | None = None
    secrets: Path | None = None
    max_hash_seconds: float = MAX_HASH_SECONDS
    drop_passwords: bool = False
    drop_second_factors: bool = False
