"""Protects an ASGI app of any framework: requests need a valid token.

Put a CORS middleware outside of this one: browsers send a preflight without a token.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypedDict

from hourpass.errors import GuardError, InvalidRequestError
from hourpass.event_loops import require_asyncio
from hourpass.guard.asgi import ASGIApp, Receive, Scope, Send, client_address, refuse
from hourpass.guard.identity_headers import IdentityHeaders
from hourpass.guard.mcp_user import name_user
from hourpass.guard.name_readers import RequestHead, check_length
from hourpass.guard.open_credentials import OpenCredential, Validity
from hourpass.guard.open_requests import OpenRequest
from hourpass.guard.path_scopes import Matched, PathScopes, ScopesByPath
from hourpass.guard.public_paths import PublicPaths
from hourpass.guard.request_body import RequestBody, read_names
from hourpass.guard.subprotocols import TokenInSubprotocol
from hourpass.guard.token_verifier import Verified
from hourpass.user import User

_CHECK_ROUTES = "hourpass.guard.fastapi_app"  # loaded where FastAPI is installed


class Verifier(Validity, Protocol):
    """The methods of a guard that the middleware uses."""

    def get_credential(self, headers: Iterable[tuple[bytes, bytes]]) -> str: ...
    async def averify(self, token: str, ip_address: str | None = None) -> Verified: ...
    def connect(self) -> None: ...


class Authenticated:
    """The guard that accepted a request, and its user. It is in the request's scope."""

    KEY = "hourpass"

    __slots__ = ("guard", "user")

    def __init__(self, guard: object, user: User) -> None:
        self.guard = guard
        self.user = user


class MiddlewareOptions(TypedDict, total=False):
    username_headers: Iterable[str]
    finish_requests: bool
    token_in_subprotocol: bool
    scopes: PathScopes | None


class Middleware:
    """`Guard.middleware` explains the options."""

    def __init__(  # noqa: PLR0913 - the options of Guard.middleware
        self,
        app: ASGIApp,
        guard: Verifier,
        public: Iterable[str] = (),
        *,
        username_headers: Iterable[str] = (),
        finish_requests: bool = False,
        token_in_subprotocol: bool = False,
        scopes: PathScopes | None = None,
    ) -> None:
        self.app = app
        self._guard = guard
        self._public = PublicPaths(public)
        self._scopes = ScopesByPath(scopes)
        self._identity_headers = IdentityHeaders(username_headers)
        self._finish_requests = finish_requests
        self._token_in_subprotocol = token_in_subprotocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_asyncio("guard.middleware")
        kind = scope["type"]
        if kind == "lifespan":
            await self._run_lifespan(scope, receive, send)
            return
        if self._is_public(scope):
            await self.app(self._with_user(scope, None), receive, send)
            return
        if kind == "websocket" and self._token_in_subprotocol:
            subprotocol = TokenInSubprotocol(scope)
            scope, send = subprotocol.scope, subprotocol.sending(send)
        ip_address = client_address(scope)
        try:
            credential = self._guard.get_credential(scope["headers"])
            verified = await self._guard.averify(credential, ip_address)
        except GuardError as error:
            accept = _header(scope, b"accept")
            await refuse(error, self._guard.refusal(error, accept), scope, send)
            return
        scope = self._with_user(scope, verified.user)
        name_user(scope, verified.user, credential)
        app = partial(self._app_within_rights, verified.user)
        if kind == "http" and self._finish_requests:
            await app(scope, receive, send)
            return
        validity = OpenCredential(self._guard, credential, verified, ip_address)
        await OpenRequest(self._guard, validity, scope, send).run(app, receive)

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _CHECK_ROUTES in sys.modules:
            try:
                sys.modules[_CHECK_ROUTES].check_routes(scope.get("app", self.app))
            except ValueError as error:
                # Servers take another end than this for an app without lifespan, and go on.
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        with suppress(GuardError):  # the app starts without the service as well
            self._guard.connect()  # so that the first request does not wait for it
        await self.app(scope, receive, send)

    async def _app_within_rights(
        self, user: User, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The app, if the user has the scopes of the path."""
        try:
            matching = self._scopes.matching(*_paths(scope))
            if matching:
                receive = await _check(matching, user, scope, receive)
        except GuardError as error:
            await refuse(error, self._guard.refusal(error, _header(scope, b"accept")), scope, send)
            return
        await self.app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        return scope["type"] in ("http", "websocket") and self._public.contain(*_paths(scope))

    def _with_user(self, scope: Scope, user: User | None) -> Scope:
        """A copy: some servers share scope and state between the requests of a connection."""
        state = dict(scope.get("state") or {})
        state.pop("user", None)
        headers = [
            pair for pair in scope["headers"] if not self._identity_headers.are_named(pair[0])
        ]
        changed: dict[str, Any] = {**scope, "state": state, "headers": headers}
        changed.pop(Authenticated.KEY, None)
        if user:
            state["user"] = user
            changed[Authenticated.KEY] = Authenticated(self._guard, user)
            headers += self._identity_headers.in_asgi(user)
        return changed


async def _check(matching: list[Matched], user: User, scope: Scope, receive: Receive) -> Receive:
    """Raises InsufficientScopeError, InvalidRequestError and ContentTooLargeError. Returns what
    the app receives."""
    head = RequestHead.of(scope["headers"], scope.get("query_string", b""))
    body = RequestBody(receive)
    readers = [matched.requirement for matched in matching if matched.requirement.reads_body]
    if readers:
        if scope["type"] != "http":
            raise InvalidRequestError("A websocket has no body")
        limit = min(requirement.max_body for requirement in readers)
        check_length(_header(scope, b"content-length"), limit)
        await body.read(limit)
    for requirement, names in matching:
        for name, reader in requirement.readers.items():
            names[name] = await read_names(reader, head, body.content)
        requirement.check(user, names)
    return body.receive if readers else receive


def _paths(scope: Scope) -> tuple[str, str, bytes]:
    return scope["path"], scope.get("root_path", ""), scope.get("raw_path") or b""


def _header(scope: Scope, name: bytes) -> str:
    return b",".join(value for given, value in scope["headers"] if given == name).decode("latin-1")
