"""An issuer of tokens that replaces the service in the tests of an API with a guard.

Use the fixture `hourpass_issuer`, or that of a module or of the session, and call its
`attach(guard)`. pytest finds the fixtures by itself (pytest_plugin.py);
`pytest_plugins = ["hourpass.testing"]` also gives them where the loading of plugins is off.

PYTEST_DONT_REWRITE: there are no assertions here, and a conftest.py may import this module first.
"""

from hourpass.pytest_plugin import (
    hourpass_issuer,
    module_hourpass_issuer,
    session_hourpass_issuer,
)
from hourpass.testing.accounts import Group, ServiceAccount
from hourpass.testing.clock import MovableClock
from hourpass.testing.issuer import LIFETIME, Issuer
from hourpass.testing.requests import Request, RequestUrl, Response
from hourpass.testing.signing_key import SigningKey

__all__ = [
    "LIFETIME",
    "Group",
    "Issuer",
    "MovableClock",
    "Request",
    "RequestUrl",
    "Response",
    "ServiceAccount",
    "SigningKey",
    "authorization",
    "hourpass_issuer",
    "module_hourpass_issuer",
    "session_hourpass_issuer",
]


def authorization(token: str) -> dict[str, str]:
    """The header that carries the token."""
    return {"Authorization": f"Bearer {token}"}
