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
from hourpass.guard.name_readers import RequestHead
from hourpass.guard.path_scopes import PathScopes, ScopesByPath
from hourpass.guard.public_paths import PublicPaths
from hourpass.user import User

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

USER_KEY = "hourpass.user"


class GuardMiddleware:
    """`app.wsgi_app = GuardMiddleware(app.wsgi_app, guard, public=["/health"])`.

    The user is `environ["hourpass.user"]`, `REMOTE_USER` is the username, and the headers are those
    of `Guard.middleware`. `public`, `username_headers` and `scopes` mean the same there; names come
    from the path or the query, not from the body.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        guard: Guard,
        public: Iterable[str] = (),
        *,
        username_headers: Iterable[str] = (),
        scopes: PathScopes | None = None,
    ) -> None:
        self._app = app
        self._guard = guard
        self._public = PublicPaths(public)
        self._scopes = ScopesByPath(scopes)
        if self._scopes.reads_body:
            raise ValueError("In WSGI, names come from the path or the query")
        self._identity_headers = IdentityHeaders(username_headers)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if self._is_public(environ):
            return self._app(self._with_user(environ, None), start_response)
        try:
            credential = self._guard.get_credential(_headers(environ))
            user = self._guard.check(credential, ip_address=environ.get("REMOTE_ADDR"))
            self._require_scopes(environ, user)
        except GuardError as error:
            refusal = self._guard.refusal(error, environ.get("HTTP_ACCEPT", ""))
            status = f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
            start_response(status, list(refusal.headers.items()))
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [refusal.body]
        return self._app(self._with_user(environ, user), start_response)

    def _is_public(self, environ: "WSGIEnvironment") -> bool:
        return self._public.contain(*_paths(environ))

    def _require_scopes(self, environ: "WSGIEnvironment", user: User) -> None:
        """Raises InsufficientScopeError and InvalidRequestError."""
        head = RequestHead((), (), environ.get("QUERY_STRING", "").encode("latin-1"))
        for requirement, names in self._scopes.matching(*_paths(environ)):
            for name, reader in requirement.readers.items():
                names[name] = reader.names(head, b"")
            requirement.check(user, names)

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


def _paths(environ: "WSGIEnvironment") -> tuple[str, str, bytes]:
    """The path within the app, and the path that was sent, as in ASGI."""
    # Servers decode the path's bytes as Latin-1 (PEP 3333).
    path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
    sent: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    return path, "", sent.partition("?")[0].encode("latin-1")


def _headers(environ: "WSGIEnvironment") -> list[tuple[bytes, bytes]]:
    """The headers as in ASGI. Servers join several of one name with a comma, which no credential
    contains."""
    return [
        (key.removeprefix("HTTP_").replace("_", "-").lower().encode(), value.encode("latin-1"))
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]


def create_app() -> Callable[..., Iterable[bytes]]:
    """The app that HOURPASS_APP names, protected: `gunicorn "hourpass.wsgi:create_app()"`."""
    settings = environment.read()
    return GuardMiddleware(settings.load_app(), settings.guard, settings.public_paths)
