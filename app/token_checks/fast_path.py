"""Answers /token_status and /verify from memory, before FastAPI routes the request.

Requests that need more than memory go to the routes in router.py, which use the same two functions.
A check takes a sixteenth of the CPU time of the route (benchmarks/fast_paths.py), and a worker
serves ten times as many.
"""

import re
from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.datastructures import State
from starlette.types import Scope

from app.errors import ApiError, InvalidRequestError
from app.http.error_responses import error_response
from app.http.middleware import Header, PreparedResponse
from app.token_checks.schemas import VERIFY_METHODS, TokenStatus, identity_headers
from app.tokens.dependencies import bearer_token
from app.tokens.errors import InsufficientScopeError
from app.users.authenticated_user import AuthenticatedUser
from app.users.token_cache import TokenCache

_STATUS = "/token_status/"
_VERIFY = "/verify"
_BELOW_VERIFY = "/verify/"
FAST_PREFIXES = (_STATUS, _VERIFY)

_ROUTES = {_STATUS: "/token_status/{token}", _VERIFY: _VERIFY}
_BODY = TokenStatus().model_dump_json().encode()
_HEADERS = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY)))
_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3


def token_status(user: AuthenticatedUser) -> PreparedResponse:
    return PreparedResponse(_ROUTES[_STATUS], user.id, 200, _HEADERS, _BODY)


def verify(user: AuthenticatedUser, query: bytes) -> PreparedResponse:
    """`query` names the required scopes, as in `scope=predict`.

    Raises InsufficientScopeError and InvalidRequestError.
    """
    if query:
        required = _required_scopes(query)
        if not user.scopes.issuperset(required):
            raise InsufficientScopeError(*required)
    return PreparedResponse(_ROUTES[_VERIFY], user.id, 200, _verify_headers(user), _BODY)


class FastPath:
    def __init__(self, state: State) -> None:
        self._state = state

    def try_fast_path(self, scope: Scope) -> PreparedResponse | None:
        """The response, or None if it needs more than memory."""
        path = _path(scope)
        if path is None:
            return None
        user_id = None
        try:
            token = bearer_token(scope) if path == _VERIFY else scope["path"][len(_STATUS) :]
            cache: TokenCache = self._state.token_cache
            verified = cache.check(token, self._state.clock())
            if verified is None:
                return None
            user_id = verified.user.id
            if path == _STATUS:
                return token_status(verified.user)
            return verify(verified.user, scope["query_string"])
        except ApiError as error:
            response = error_response(error)
            headers, body = tuple(response.raw_headers), bytes(response.body)
            return PreparedResponse(_ROUTES[path], user_id, response.status_code, headers, body)


def _path(scope: Scope) -> str | None:
    path: str = scope["path"]
    if path.startswith(_STATUS):
        is_read = scope["method"] in ("GET", "HEAD")
        return _STATUS if is_read and "/" not in path[len(_STATUS) :] else None
    if path == _VERIFY or path.startswith(_BELOW_VERIFY):
        return _VERIFY if scope["method"] in VERIFY_METHODS else None
    return None


@lru_cache(maxsize=4096)
def _verify_headers(user: AuthenticatedUser) -> tuple[Header, ...]:
    return (*_HEADERS, *identity_headers(user))


@lru_cache(maxsize=64)
def _required_scopes(query: bytes) -> tuple[str, ...]:
    """Rejects an empty or malformed scope: it would admit every token, or none."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = [value for name, value in pairs if name == "scope"]
    if not all(_SCOPES.fullmatch(value) for value in values):
        raise InvalidRequestError.for_field("scope", "Must be one or more scopes between spaces")
    return tuple(sorted({scope for value in values for scope in value.split(" ")}))
