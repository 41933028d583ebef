"""The guard for servers that load middleware by its dotted path and give it no arguments:
`vllm serve --middleware hourpass.asgi.GuardMiddleware`.

Importing this module reads the settings from the environment (hourpass/environment.py), and raises
ConfigurationError if one is missing. Servers create the middleware later, where some of them ignore
errors.
"""

from hourpass import environment
from hourpass.guard.asgi import ASGIApp
from hourpass.guard.middleware import Middleware

_settings = environment.read()


class GuardMiddleware(Middleware):
    """The middleware of a guard with these settings. All apps of the process share the guard."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, _settings.guard, _settings.public_paths)


def create_app() -> GuardMiddleware:
    """The app that HOURPASS_APP names, protected: `uvicorn --factory hourpass.asgi:create_app`."""
    return GuardMiddleware(_settings.load_app())
