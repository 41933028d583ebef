"""The settings of `hourpass.asgi` and `hourpass.wsgi`, from environment variables."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

from hourpass.guard.guard import Guard
from hourpass.guard.public_paths import PublicPaths

PREFIX = "HOURPASS_"
SETTINGS = ("APP", "AUDIENCE", "ISSUER", "PUBLIC_PATHS", "URL")
# Of clients, which may run in the same process.
_OTHERS = frozenset({"OTP", "PASSWORD", "SCOPES", "TOKEN", "USERNAME"})
# Kubernetes and Docker set these for each service of the name `hourpass`.
_SERVICE_LINK = re.compile(r"SERVICE_.+|PORT(_.+)?|NAME|ENV_.+")


class ConfigurationError(ValueError):
    """A setting is missing, misspelt or wrong."""


class EnvironmentSettings(NamedTuple):
    guard: Guard
    public_paths: list[str]
    app: str | None

    def load_app(self) -> Any:
        """The app `module:attribute`. Raises ConfigurationError."""
        module, _, attribute = (self.app or "").partition(":")
        if not module or not attribute:
            raise ConfigurationError(f"{PREFIX}APP names the app to protect, as module:attribute")
        try:
            return getattr(import_module(module), attribute)
        except AttributeError:
            raise ConfigurationError(f"{PREFIX}APP: {module} has no {attribute}") from None


def read(variables: Mapping[str, str] = os.environ) -> EnvironmentSettings:
    """Raises ConfigurationError."""
    _refuse_misspelt(variables)
    given = {name: variables.get(PREFIX + name, "").strip() for name in SETTINGS}
    url = given["URL"]
    if not url:
        raise ConfigurationError(f"{PREFIX}URL is not set. It is the URL of the Hourpass service")
    optional: dict[str, Any] = {
        name.lower(): given[name] for name in ("AUDIENCE", "ISSUER") if given[name]
    }
    public_paths = given["PUBLIC_PATHS"].replace(",", " ").split()
    try:
        PublicPaths(public_paths)
    except ValueError as error:
        raise ConfigurationError(f"{PREFIX}PUBLIC_PATHS: {error}") from None
    try:
        guard = Guard(url, **optional)
    except ValueError as error:
        raise ConfigurationError(f"{PREFIX}URL: {error}") from None
    return EnvironmentSettings(guard, public_paths, given["APP"] or None)


def _refuse_misspelt(variables: Mapping[str, str]) -> None:
    for variable in variables:
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable.upper().removeprefix(PREFIX)
        is_known = (name in SETTINGS and variable.isupper()) or name in _OTHERS
        if not is_known and not _SERVICE_LINK.fullmatch(name):
            near = get_close_matches(name, SETTINGS, n=1, cutoff=0)[0]
            raise ConfigurationError(f"{variable} is no setting. Did you mean {PREFIX}{near}?")
