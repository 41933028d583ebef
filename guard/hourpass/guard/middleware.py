"""Protects an ASGI app of any framework: requests need a valid token.

Put a CORS middleware outside of this one: browsers send a preflight without a token.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol, TypedDict

from hourpass.errors import GuardError
from hourpass.event_loops import require_asyncio
from hourpass.guard.asgi import ASGIApp, Receive, Scope, Send, refuse
from hourpass.guard.bearer import bearer_token
from hourpass.guard.identity_headers import IdentityHeaders
from hourpass.guard.mcp_user import name_user
from hourpass.guard.open_requests import OpenRequest, Validity
from hourpass.guard.public_paths import PublicPaths
from hourpass.guard.subprotocols import TokenInSubprotocol
from hourpass.guard.token_verifier import Verified
from hourpass.user import User


class Verifier(Validity, Protocol):
    """What the middleware needs of a guard."""

    async def averify(self, token: str) -> Verified: ...
    def connect(self) -> None: ...


class Authenticated:
    """In the scope of a request: which guard let it in, and as which user."""

    KEY = "hourpass"

    __slots__ = ("guard", "user")

    def __init__(self, guard: object, user: User) -> None:
        self.guard = guard
        self.user = user


class MiddlewareOptions(TypedDict, total=False):
    username_headers: Iterable[str]
    finish_requests: bool
    token_in_subprotocol: bool


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
    ) -> None:
        self.app = app
        self._guard = guard
        self._public = PublicPaths(public)
        self._identity_headers = IdentityHeaders(username_headers)
        self._finish_requests = finish_requests
        self._token_in_subprotocol = token_in_subprotocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_asyncio("guard.middleware")
        kind = scope["type"]
        if kind == "lifespan":
            with suppress(GuardError):  # the app starts without the service as well
                self._guard.connect()  # so that the first request does not wait for it
            await self.app(scope, receive, send)
            return
        if self._is_public(scope):
            await self.app(self._with_user(scope, None), receive, send)
            return
        if kind == "websocket" and self._token_in_subprotocol:
            subprotocol = TokenInSubprotocol(scope)
            scope, send = subprotocol.scope, subprotocol.sending(send)
        try:
            verified = await self._guard.averify(bearer_token(scope["headers"]))
        except GuardError as error:
            accept = _header(scope, b"accept")
            await refuse(error, self._guard.refusal(error, accept), scope, send)
            return
        scope = self._with_user(scope, verified.user)
        if kind == "http" and self._finish_requests:
            await self.app(scope, receive, send)
            return
        await OpenRequest(self._guard, verified, scope, send).run(self.app, receive)

    def _is_public(self, scope: Scope) -> bool:
        return scope["type"] in ("http", "websocket") and self._public.contain(
            scope["path"], scope.get("root_path", ""), scope.get("raw_path") or b""
        )

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
            name_user(changed, user)
        return changed


def _header(scope: Scope, name: bytes) -> str:
    return b",".join(value for given, value in scope["headers"] if given == name).decode("latin-1")
