"""Scopes (RFC 6749, 3.3), and the type of the access tokens."""

import re
from collections.abc import Iterable
from typing import Any, Literal

BEARER: Literal["bearer"] = "bearer"

OFFLINE_ACCESS = "offline_access"  # asks for a refresh token
INTROSPECTION_SCOPES = {"admin", "introspect"}
SCOPE_DESCRIPTIONS = {  # of all that have a meaning to this service
    "admin": "Manage users and invitations, read the audit log.",
    "introspect": "Introspect tokens of other users.",
    OFFLINE_ACCESS: "Get a refresh token too.",
}
# An API key has these only if they were named when it was made.
EXPLICIT_SCOPES = {"admin", "introspect", "guard"}
# `is_admin` grants `admin`, and a login requests `offline_access`. Neither is stored with a user.
RESERVED_SCOPES = {"admin", OFFLINE_ACCESS}

SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,50}")


def scope_string(scopes: Iterable[str]) -> str:
    return " ".join(sorted(scopes))


def split_scopes(scopes: Any) -> Any:
    """Splits the string of the users table. Other values stay as they are."""
    return scopes.split() if isinstance(scopes, str) else scopes
