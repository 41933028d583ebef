"""Protects a WSGI app, such as Flask's: requests need a valid token.

Responses that began with a valid token go on to their end. `create_app()` takes the app and its
settings from the environment.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from hourpass import environment
from hourpass.errors import GuardError
from hourpass.guard.guard import Guard
from hourpass.guard.identity_headers import IdentityHeaders
from hourpass.guard.public_paths import PublicPaths
from hourpass.user import User

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

USER_KEY = "hourpass.user"


class GuardMiddleware:
    """`app.wsgi_app = GuardMiddleware(app.wsgi_app, guard, public=["/health"])`.

    The user is `environ["hourpass.user"]`, `REMOTE_USER` is the username, and the headers are those
    of `Guard.middleware`. `public` and `username_headers` mean the same there.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        guard: Guard,
        public: Iterable[str] = (),
        *,
        username_headers: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._guard = guard
        self._public = PublicPaths(public)
        self._identity_headers = IdentityHeaders(username_headers)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if self._is_public(environ):
            return self._app(self._with_user(environ, None), start_response)
        try:
            user = self._guard.check_header(environ.get("HTTP_AUTHORIZATION"))
        except GuardError as error:
            refusal = self._guard.refusal(error, environ.get("HTTP_ACCEPT", ""))
            status = f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
            start_response(status, list(refusal.headers.items()))
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [refusal.body]
        return self._app(self._with_user(environ, user), start_response)

    def _is_public(self, environ: "WSGIEnvironment") -> bool:
        # Servers decode the path's bytes as Latin-1 (PEP 3333).
        path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
        sent: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
        return self._public.contain(path, raw_path=sent.partition("?")[0].encode("latin-1"))

    def _with_user(self, environ: "WSGIEnvironment", user: User | None) -> dict[str, Any]:
        changed = {
            key: value
            for key, value in environ.items()
            if not self._identity_headers.are_named(key.removeprefix("HTTP_").encode("latin-1"))
        }
        changed.pop(USER_KEY, None)
        if user:
            changed |= {USER_KEY: user, "REMOTE_USER": user.username, "AUTH_TYPE": "Bearer"}
            for name, value in self._identity_headers.of(user).items():
                changed["HTTP_" + name.upper().replace("-", "_")] = value
        return changed


def create_app() -> Callable[..., Iterable[bytes]]:
    """The app that HOURPASS_APP names, protected: `gunicorn "hourpass.wsgi:create_app()"`."""
    settings = environment.read()
    return GuardMiddleware(settings.load_app(), settings.guard, settings.public_paths)
