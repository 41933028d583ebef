"""The two calls that are made on every prediction, answered before any routing if memory can tell.

If it cannot, they go on to the routes in auth/router.py, which document them and answer alike.
"""

from starlette.datastructures import State
from starlette.types import Scope

from app.auth.schemas import TokenStatus, identity_headers
from app.error_responses import render
from app.errors import Refusal
from app.exchange import Answer
from app.tokens.dependencies import bearer_token

_STATUS = "/token_status/"
_VERIFY = "/verify"
_ROUTES = {_STATUS: "/token_status/{token}", _VERIFY: _VERIFY}

_BODY = TokenStatus().model_dump_json().encode()
_HEADERS = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY)))


class FastLane:
    def __init__(self, state: State) -> None:
        self._state = state

    def __call__(self, scope: Scope) -> Answer | None:
        call = _call(scope)
        if call is None:
            return None
        route = _ROUTES[call]
        try:
            token = bearer_token(scope) if call == _VERIFY else scope["path"][len(_STATUS) :]
            verified = self._state.memory.verify(token, self._state.clock())
        except Refusal as refusal:
            response = render(refusal)
            body = bytes(response.body)
            return Answer(route, None, response.status_code, response.raw_headers, body)
        if verified is None:
            return None
        holder = verified.holder
        headers = _HEADERS + identity_headers(holder) if call == _VERIFY else _HEADERS
        return Answer(route, holder.id, 200, headers, _BODY)


def _call(scope: Scope) -> str | None:
    if scope["method"] != "GET":
        return None
    path: str = scope["path"]
    if path.startswith(_STATUS) and "/" not in path[len(_STATUS) :]:
        return _STATUS
    return _VERIFY if path == _VERIFY else None
