"""Answers /token_status and /verify from memory, before FastAPI routes the request.

Requests that need more than memory go to the routes in router.py, which use the same two functions.
A check takes a sixteenth of the CPU time of the route (benchmarks/fast_paths.py), and a worker
serves ten times as many.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.datastructures import State
from starlette.types import Scope

from app.errors import ApiError, InvalidRequestError
from app.http.error_responses import error_response
from app.http.middleware import Header, PreparedResponse
from app.token_checks.schemas import VERIFY_METHODS, TokenStatus, identity_headers
from app.tokens.dependencies import bearer_token
from app.tokens.errors import InsufficientScopeError
from app.tokens.jwt import MAX_AUDIENCE_LENGTH
from app.users.authenticated_user import AuthenticatedUser
from app.users.token_cache import TokenChecker
from hourpass.scopes import covers

_STATUS = "/token_status/"
_VERIFY = "/verify"
_BELOW_VERIFY = "/verify/"
FAST_PREFIXES = (_STATUS, _VERIFY)

_ROUTES = {_STATUS: "/token_status/{token}", _VERIFY: _VERIFY}
_BODY = TokenStatus().model_dump_json().encode()
_HEADERS = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY)))
_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3


class Requirements(NamedTuple):
    """What a token has to have for /verify. The audience None is the setting AUDIENCE."""

    scopes: tuple[str, ...] = ()
    audience: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Requirements":
        """Of the query, as in `scope=predict`. Raises InvalidRequestError."""
        if not scope["query_string"]:
            return _NONE
        return _parse(scope["query_string"], is_audience_read=scope["path"] == _VERIFY)


_NONE = Requirements()


def token_status(user: AuthenticatedUser) -> PreparedResponse:
    return PreparedResponse(_ROUTES[_STATUS], user.id, 200, _HEADERS, _BODY)


def verify(user: AuthenticatedUser, needed: tuple[str, ...]) -> PreparedResponse:
    """Raises InsufficientScopeError."""
    for scope in needed:
        if not covers(user.scopes, scope):
            raise InsufficientScopeError(*needed)
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
            checker: TokenChecker = self._state.token_checker
            now = self._state.clock()
            if path == _VERIFY:
                credential = bearer_token(scope)
                verified = checker.find_credential(credential, now)
            else:  # an API key does not belong in a URL
                credential = scope["path"][len(_STATUS) :]
                verified = checker.find(credential, now)
            if verified is None or verified.claims.networks:
                return None  # only the route knows the client's address
            user_id = verified.user.id
            needed = Requirements.of(scope) if path == _VERIFY else _NONE
            checker.require_audience(credential, verified, needed.audience)
            if path == _STATUS:
                return token_status(verified.user)
            return verify(verified.user, needed.scopes)
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


@lru_cache(maxsize=1024)
def _parse(query: bytes, *, is_audience_read: bool) -> Requirements:
    """Rejects an empty or malformed scope: it would admit every token, or none.

    A client must not choose the audience. A proxy may append the query of the client's request to
    its own, so only the first parameter can name the audience. Below /verify, the whole query is
    the client's, so none can.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = [value for name, value in pairs if name == "scope"]
    if not all(_SCOPES.fullmatch(value) for value in values):
        raise InvalidRequestError.for_field("scope", "Must be one or more scopes between spaces")
    scopes = tuple(sorted({scope for value in values for scope in value.split(" ")}))
    names = [name for name, _ in pairs]
    if not is_audience_read or "audience" not in names:
        return Requirements(scopes)
    audience = pairs[0][1]
    is_valid = names.index("audience") == 0 and names.count("audience") == 1
    if not is_valid or not 0 < len(audience) <= MAX_AUDIENCE_LENGTH:
        rule = f"Must come first and once, with at most {MAX_AUDIENCE_LENGTH} characters"
        raise InvalidRequestError.for_field("audience", rule)
    return Requirements(scopes, audience)
