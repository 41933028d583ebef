"""Protects a machine-learning API with Hourpass tokens, and keeps its clients logged in.

Each name is imported when it is first used: a client needs no guard, and a guard no client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hourpass.client.auth import HourpassAuth
    from hourpass.errors import (
        GuardError,
        InsufficientScopeError,
        InvalidTokenError,
        LoginError,
        MissingTokenError,
        ServiceUnavailableError,
    )
    from hourpass.guard.guard import Guard
    from hourpass.user import User

__version__ = "0.1.0"

__all__ = [
    "Guard",
    "GuardError",
    "HourpassAuth",
    "InsufficientScopeError",
    "InvalidTokenError",
    "LoginError",
    "MissingTokenError",
    "ServiceUnavailableError",
    "User",
]

_MODULES = {"Guard": "guard.guard", "HourpassAuth": "client.auth", "User": "user"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"hourpass.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
