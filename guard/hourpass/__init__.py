"""Protects a machine-learning API with Hourpass tokens, and keeps its clients logged in.

Each name is imported when it is first used: a client needs no guard, and a guard no client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hourpass.client.auth import HourpassAuth
    from hourpass.errors import (
        ContentTooLargeError,
        GuardError,
        InsufficientScopeError,
        InvalidRequestError,
        InvalidTokenError,
        LoginError,
        MissingTokenError,
        ServiceUnavailableError,
    )
    from hourpass.guard.guard import Guard
    from hourpass.guard.name_readers import from_form, from_json, from_query
    from hourpass.guard.requirements import Requirement
    from hourpass.user import User

__version__ = "0.1.0"

__all__ = [
    "ContentTooLargeError",
    "Guard",
    "GuardError",
    "HourpassAuth",
    "InsufficientScopeError",
    "InvalidRequestError",
    "InvalidTokenError",
    "LoginError",
    "MissingTokenError",
    "Requirement",
    "ServiceUnavailableError",
    "User",
    "from_form",
    "from_json",
    "from_query",
]

_MODULES = {
    "Guard": "guard.guard",
    "HourpassAuth": "client.auth",
    "Requirement": "guard.requirements",
    "User": "user",
    **dict.fromkeys(("from_form", "from_json", "from_query"), "guard.name_readers"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"hourpass.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
