"""Which pages of other origins may read responses (CORS, in the Fetch standard).

No response allows credentials: tokens are sent in a header, and the service has no cookies.
"""

from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Scope

# Keys and metadata: the pages of all origins may read them.
PUBLIC_PREFIX = "/.well-known/"
_PUBLIC_HEADERS = ((b"access-control-allow-origin", b"*"),)
_PUBLIC_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "*",
}

# Proxies send the method and headers of each request there, and let the request pass if the answer
# is 204. The request may be a preflight, which must not pass without a token.
_FOR_PROXIES = "/verify"

_VARY = (b"vary", b"Origin")
_EXPOSED = (
    b"access-control-expose-headers",
    b"ETag, Location, Retry-After, WWW-Authenticate, X-Request-Id",
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id",
}
_MAX_AGE = {"Access-Control-Max-Age": "7200"}  # Chromium remembers no preflight for longer


class Cors:
    def __init__(self, origins: Iterable[str]) -> None:
        self._headers = {
            origin.encode(): ((b"access-control-allow-origin", origin.encode()), _EXPOSED, _VARY)
            for origin in origins
        }
        self.has_origins = bool(self._headers)

    def headers(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        """The headers to add to the response."""
        if scope["path"].startswith(PUBLIC_PREFIX):
            return _PUBLIC_HEADERS
        return self._headers.get(_get(scope, b"origin"), (_VARY,))

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a preflight of an allowed origin. It does not say which paths exist."""
        if scope["method"] != "OPTIONS" or not _get(scope, b"access-control-request-method"):
            return None
        if scope["path"].startswith(PUBLIC_PREFIX):
            return Response(status_code=204, headers={**_PUBLIC_PREFLIGHT, **_MAX_AGE})
        is_allowed = _get(scope, b"origin") in self._headers
        if is_allowed and not scope["path"].startswith(_FOR_PROXIES):
            return Response(status_code=204, headers={**_PREFLIGHT, **_MAX_AGE})
        return None


def _get(scope: Scope, name: bytes) -> bytes:
    """A header of the request. Two of one name are none."""
    values = [value for each, value in scope["headers"] if each == name]
    return values[0] if len(values) == 1 else b""
