"""Scopes (RFC 6749, 3.3), and the type of the access tokens."""

from collections.abc import Iterable
from typing import Any, Literal

from hourpass.scopes import scope_string

BEARER: Literal["bearer"] = "bearer"

OFFLINE_ACCESS = "offline_access"  # asks for a refresh token
EMAIL = "email"  # as in OpenID Connect Core, 5.4: to read the e-mail address of the account
INTROSPECTION_SCOPES = {"admin", "introspect"}
SCOPE_DESCRIPTIONS = {  # of the scopes that this service itself uses
    "admin": "Manage users and invitations, read the audit log.",
    "introspect": "Introspect tokens of other users.",
    EMAIL: "Read the e-mail address of the account with a limited token.",
    OFFLINE_ACCESS: "Get a refresh token too.",
}
# An API key has these only if they were named when it was created.
EXPLICIT_SCOPES = {"admin", "introspect", "guard"}
# `is_admin` grants `admin`, and a login requests `offline_access`. Neither is stored with a user.
RESERVED_SCOPES = {"admin", OFFLINE_ACCESS}

MAX_SCOPES_LENGTH = 4_000  # of all scopes of a user, a key or a group, as they are stored
_MAX_SUMMARY_LENGTH = 800


def summarize(scopes: Iterable[str]) -> str:
    """For the audit log, whose columns are shorter than those of scopes."""
    return shorten(scope_string(scopes), _MAX_SUMMARY_LENGTH)


def shorten(scopes: str, max_length: int) -> str:
    """The first scopes, and how many more there are."""
    if len(scopes) <= max_length:
        return scopes
    kept = scopes[:max_length].rpartition(" ")[0]
    return f"{kept} and {scopes.count(' ') - kept.count(' ')} more"


def split_scopes(scopes: Any) -> Any:
    """Splits the string of the users table. Other values stay as they are."""
    return scopes.split() if isinstance(scopes, str) else scopes
