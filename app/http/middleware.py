"""The middleware of every request: limits, a request id, default headers, CORS, one log line, and a
500 for unexpected errors.

It is a single layer of plain ASGI, because every request pays for it. It does not know the routes.
"""

import logging
import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import count
from time import perf_counter
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.context import RequestContext
from app.errors import (
    ApiError,
    ContentTooLargeError,
    HeadersTooLargeError,
    InternalError,
    UriTooLongError,
)
from app.http.access_log import LoggedRequest, request_id, request_log
from app.http.cors import PUBLIC_PREFIX, Cors
from app.http.error_responses import error_response
from app.http.request_counts import DURATION_BOUNDS, NO_ROUTE, RequestCounts

MAX_BODY_BYTES = 16_384
MAX_HEADER_BYTES = 16_384
MAX_TARGET_BYTES = 8_192  # the request line's path and query; RFC 9110, 4.1 asks for 8,000

_CLIENT_CLOSED_REQUEST = 499  # as in nginx; only logged, never sent
_CLOSED_BY_UVLOOP = "the handler is closed"
_CLIENT_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")

# Set unless the route sets them. Responses about tokens and users must not be cached (RFC 6749,
# 5.1), nothing here belongs in a frame, and /token_status/{token} must not become a referrer.
_DEFAULT_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

_log = logging.getLogger("hourpass")

Header = tuple[bytes, bytes]


class PreparedResponse(NamedTuple):
    """A whole response, without the default headers, and the fields for its log line."""

    route: str
    user_id: int | None
    status: int
    headers: tuple[Header, ...]
    body: bytes


class RequestMiddleware:
    def __init__(
        self,
        app: ASGIApp,
        try_fast_path: Callable[[Scope], PreparedResponse | None],
        fast_prefixes: tuple[str, ...],
        routine_routes: frozenset[str] = frozenset(),
        cors_origins: Iterable[str] = (),
    ) -> None:
        """`try_fast_path` is called first if the path begins with one of `fast_prefixes`. It
        answers from memory, or returns None. Successful requests to `routine_routes` are logged at
        level debug."""
        self.app = app
        self._try_fast_path = try_fast_path
        self._fast_prefixes = fast_prefixes
        self._routine_routes = routine_routes
        self.counts = RequestCounts()
        self._prepared = self.counts.prepared
        self._cors = Cors(cors_origins)
        # Ids must be unique, not secret. A counter needs no system call.
        self._ids = map((secrets.token_hex(5) + "-%x").__mod__, count())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_head = scope["method"] == "HEAD"
            await self._http(scope, receive, _without_content(send) if is_head else send)
        else:
            await self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_text(message: Message) -> None:
            # main.py has logged the reason. The framework would log the error's text.
            if message["type"] == "lifespan.startup.failed":
                message = {**message, "message": ""}
            await send(message)

        await self.app(scope, receive, send_without_text)

    def try_fast_path(
        self, scope: Scope, log: Callable[[LoggedRequest], None] = request_log.write
    ) -> tuple[PreparedResponse, str] | None:
        """The response and the request's id, if the response is ready without waiting.
        server/protocol.py then needs no task."""
        if not scope["path"].startswith(self._fast_prefixes):
            return None
        started = perf_counter()
        id_, error = _check_limits(scope)
        if error:
            return None
        try:
            response = self._try_fast_path(scope)
        except Exception:  # noqa: BLE001 - logged, and the route handles the request
            _log.exception("Unexpected error")
            return None
        if response is None:
            return None
        if self._cors.has_origins:
            response = response._replace(headers=(*response.headers, *self._cors.headers(scope)))
        id_ = id_ or next(self._ids)
        took = _milliseconds_since(started)
        method, route, status = scope["method"], response.route, response.status
        try:
            self._prepared[route][status] += 1
        except KeyError:  # the first one
            self._prepared.setdefault(route, {})[status] = 1
        log(LoggedRequest(id_, method, route, status, took, response.user_id))
        return response, id_

    async def _send_prepared(self, scope: Scope, client: "_Client") -> bool:
        """Returns False if the response is not ready."""
        logged: list[LoggedRequest] = []
        prepared = self.try_fast_path(scope, logged.append)
        if prepared is None:
            return False
        response, id_ = prepared
        headers = [*with_default_headers(response.headers), (b"x-request-id", id_.encode())]
        await client.send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        await client.send({"type": "http.response.body", "body": response.body})
        request_log.write(logged[0]._replace(status=client.status_of(response.status)))
        return True

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(send)
        if await self._send_prepared(scope, client):
            return
        started = perf_counter()
        id_, error = _check_limits(scope)
        id_ = id_ or next(self._ids)
        request_id.set(id_)
        state = scope.setdefault("state", {})
        state["request_id"] = id_
        routed = _routed(scope)
        status = _CLIENT_CLOSED_REQUEST
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise ContentTooLargeError
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = with_default_headers((*message["headers"], *self._cors_headers(scope)))
                message["headers"] = [*headers, (b"x-request-id", id_.encode())]
            await client.send(message)

        try:
            answer = error_response(error()) if error else self._preflight(scope)
            if answer:
                await answer(scope, receive, send_with_headers)
            else:
                await self.app(routed, receive_limited, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        except Exception:  # noqa: BLE001 - logged, and the client gets a 500
            _log.exception("Unexpected error")
            if status == _CLIENT_CLOSED_REQUEST:
                await error_response(InternalError())(scope, receive, send_with_headers)
        finally:
            status = client.status_of(status)
            took = _milliseconds_since(started)
            path, user_id = _route_and_user(routed)
            self._count(path or NO_ROUTE, status, took / 1000, error)
            request = LoggedRequest(id_, scope["method"], path, status, took, user_id)
            is_routine = path in self._routine_routes and status < 400
            (request_log.write_routine if is_routine else request_log.write)(request)

    def _has_cors(self, scope: Scope) -> bool:
        """Whether pages of other origins may read the response. Usually they may not, and nothing
        of cors.py is called."""
        return self._cors.has_origins or scope["path"].startswith(PUBLIC_PREFIX)

    def _cors_headers(self, scope: Scope) -> tuple[Header, ...]:
        return self._cors.headers(scope) if self._has_cors(scope) else ()

    def _preflight(self, scope: Scope) -> Response | None:
        return self._cors.preflight(scope) if self._has_cors(scope) else None

    def _count(self, route: str, status: int, seconds: float, error: type[ApiError] | None) -> None:
        """Count a request that was not answered from memory. `error` if it exceeded a limit."""
        counts = self.counts
        counts.routed[route, status] += 1
        counts.durations[route][bisect_left(DURATION_BOUNDS, seconds)] += 1
        counts.seconds[route] += seconds
        if error:
            counts.add_refusal(error)


class _Client:
    """Sends to the client, and remembers whether it closed the connection before the response.

    The app continues as if the client were there, so that the log has the app's own errors.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_hung_up = False

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # as in ASGI, version 2.4
            self._has_hung_up = True
        except RuntimeError as error:
            if _CLOSED_BY_UVLOOP not in str(error):  # with plain uvicorn
                raise
            self._has_hung_up = True

    def status_of(self, status: int) -> int:
        """The status to log."""
        return _CLIENT_CLOSED_REQUEST if self._has_hung_up else status


def _routed(scope: Scope) -> Scope:
    """The scope for the router. HEAD is GET without the content (RFC 9110, 9.3.2), so routes handle
    GET only."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _without_content(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def _route_and_user(scope: Scope) -> tuple[str | None, int | None]:
    """The fields for the log line, after the route was called."""
    route = scope.get("route")
    # Removed from the scope, because the connection keeps the scope, and with it the database
    # session, until its next request.
    context: RequestContext | None = scope["state"].pop("context", None)
    return route.path if route else None, context.user_id if context else None


def _check_limits(scope: Scope) -> tuple[str | None, type[ApiError] | None]:
    """The client's request id, if it is safe to log, and the error if a limit is exceeded."""
    id_ = None
    error: type[ApiError] | None = None
    total = 0
    for name, value in scope["headers"]:
        total += len(name) + len(value)
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            error = ContentTooLargeError
        elif name == b"x-request-id" and _CLIENT_REQUEST_ID.fullmatch(value):
            id_ = value.decode()
    if total > MAX_HEADER_BYTES:
        error = HeadersTooLargeError
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        error = UriTooLongError
    return id_, error


def with_default_headers(headers: tuple[Header, ...]) -> list[Header]:
    """Add the default headers that are not set."""
    given = {name for name, _ in headers}
    return [*headers, *(header for header in _DEFAULT_HEADERS if header[0] not in given)]


def _milliseconds_since(started: float) -> float:
    return (perf_counter() - started) * 1000
