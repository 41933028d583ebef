"""The two calls that are made on every prediction, answered before any routing if memory can tell.

If it cannot, they go on to the routes in auth/router.py, which document them and answer alike.
"""

from functools import lru_cache

from starlette.datastructures import State
from starlette.types import Scope

from app.errors import Refusal
from app.http.error_responses import render
from app.http.middleware import Answer, Header
from app.token_checks.dependencies import VERIFY_METHODS, refuse_without_scopes
from app.token_checks.schemas import TokenStatus, identity_headers
from app.tokens.dependencies import bearer_token
from app.users.service import Identity

_STATUS = "/token_status/"
_VERIFY = "/verify"
_BELOW_VERIFY = "/verify/"
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
        user_id = None
        try:
            token = bearer_token(scope) if call == _VERIFY else scope["path"][len(_STATUS) :]
            verified = self._state.memory.verify(token, self._state.clock())
            if verified is None:
                return None
            user_id = verified.holder.id
            if call == _STATUS:
                return Answer(route, user_id, 200, _HEADERS, _BODY)
            refuse_without_scopes(verified.holder, scope)
            return Answer(route, user_id, 200, _headers(verified.holder), _BODY)
        except Refusal as refusal:
            response = render(refusal)
            headers, body = tuple(response.raw_headers), bytes(response.body)
            return Answer(route, user_id, response.status_code, headers, body)


@lru_cache(maxsize=4096)
def _headers(holder: Identity) -> tuple[Header, ...]:
    return (*_HEADERS, *identity_headers(holder))


def _call(scope: Scope) -> str | None:
    path: str = scope["path"]
    if path.startswith(_STATUS):
        return _STATUS if scope["method"] == "GET" and "/" not in path[len(_STATUS) :] else None
    if path == _VERIFY or path.startswith(_BELOW_VERIFY):
        return _VERIFY if scope["method"] in VERIFY_METHODS else None
    return None
