"""Protects a machine-learning API with Hourpass tokens, and keeps its clients logged in."""

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
