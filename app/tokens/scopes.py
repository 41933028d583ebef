"""Scopes (RFC 6749, 3.3), and the type of the access tokens."""

from collections.abc import Iterable
from typing import Any, Literal

from hourpass.scopes import covers

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


def scope_string(scopes: Iterable[str]) -> str:
    return " ".join(sorted(scopes))


def summarize(scopes: Iterable[str]) -> str:
    """For the audit log, whose columns are shorter than those of scopes."""
    shown = scope_string(scopes)
    if len(shown) <= _MAX_SUMMARY_LENGTH:
        return shown
    kept = shown[:_MAX_SUMMARY_LENGTH].rpartition(" ")[0]
    return f"{kept} and {shown.count(' ') - kept.count(' ')} more"


def without(scopes: frozenset[str], excluded: frozenset[str]) -> frozenset[str]:
    """The scopes that have nothing in common with the excluded ones. A pattern that covers an
    excluded scope goes as a whole: no scope says "all names but this one"."""
    return frozenset(
        scope
        for scope in scopes
        if not covers(excluded, scope)
        and not any(covers(frozenset({scope}), other) for other in excluded)
    )


def split_scopes(scopes: Any) -> Any:
    """Splits the string of the users table. Other values stay as they are."""
    return scopes.split() if isinstance(scopes, str) else scopes
