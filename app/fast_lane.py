"""The two calls that are made on every prediction, answered before any routing if memory can tell.

If it cannot, they go on to the routes in auth/router.py, which document them and answer alike.
"""

from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.dependencies import VERIFY_METHODS, refuse_without_scopes
from app.auth.schemas import TokenStatus, identity_headers
from app.error_responses import render
from app.errors import Refusal
from app.tokens.dependencies import bearer_token

_STATUS = "/token_status/"
_VERIFY = "/verify"
_BELOW_VERIFY = "/verify/"


class _Route(NamedTuple):
    """What exchange.py reads for the log."""

    path: str


_ROUTES = {_STATUS: _Route("/token_status/{token}"), _VERIFY: _Route(_VERIFY)}

_BODY = TokenStatus().model_dump_json().encode()
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


class FastLane:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call(scope)
        if call is None:
            await self.app(scope, receive, send)
            return
        state = scope["app"].state
        try:
            token = bearer_token(scope) if call == _VERIFY else scope["path"][len(_STATUS) :]
            verified = state.memory.verify(token, state.clock())
            if verified:
                scope.setdefault("state", {})["user_id"] = verified.holder.id
                if call == _VERIFY:
                    refuse_without_scopes(verified.holder, scope)
        except Refusal as refusal:
            scope["route"] = _ROUTES[call]
            await render(refusal)(scope, receive, send)
            return
        if verified is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _ROUTES[call]
        identity = identity_headers(verified.holder) if call == _VERIFY else ()
        headers = [*_HEADERS, *identity]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})


def _call(scope: Scope) -> str | None:
    if scope["type"] != "http":
        return None
    path: str = scope["path"]
    if path.startswith(_STATUS):
        return _STATUS if scope["method"] == "GET" and "/" not in path[len(_STATUS) :] else None
    if path == _VERIFY or path.startswith(_BELOW_VERIFY):
        return _VERIFY if scope["method"] in VERIFY_METHODS else None
    return None
