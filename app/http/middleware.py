"""What surrounds every HTTP exchange: bounds, an id, safe headers, one log line, a 500 at worst.

Pure ASGI and a single layer, because every request pays for it. It knows no route.
"""

import logging
import re
import secrets
from collections.abc import Callable
from itertools import count
from time import perf_counter
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.context import Caller
from app.errors import (
    ContentTooLargeError,
    HeadersTooLargeError,
    InternalError,
    Refusal,
    UriTooLongError,
)
from app.http.access_log import LoggedRequest, request_id, request_log
from app.http.error_responses import render

MAX_BODY_BYTES = 16_384
MAX_HEADER_BYTES = 16_384
MAX_TARGET_BYTES = 8_192  # the request line's path and query; RFC 9110, 4.1 asks for 8,000

_CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; only ever logged
_GIVEN_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")

# Set unless the route says otherwise. Answers about tokens and users are nobody's to cache
# (RFC 6749, 5.1), nothing here belongs in a frame, and /token_status/{token} is no referrer.
_DEFAULT_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

_log = logging.getLogger("hourpass")


Header = tuple[bytes, bytes]


class Answer(NamedTuple):
    """A whole response but for the headers that every one has, and what the log says of it."""

    route: str
    user_id: int | None
    status: int
    headers: tuple[Header, ...]
    body: bytes


class Exchange:
    """`fast_lane` is asked first: an answer there need not be waited for."""

    def __init__(self, app: ASGIApp, fast_lane: Callable[[Scope], Answer | None]) -> None:
        self.app = app
        self._fast_lane = fast_lane
        # Unique, not secret: a counter spares each request a call to the kernel.
        self._ids = map((secrets.token_hex(5) + "-%x").__mod__, count())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_text(message: Message) -> None:
            # main.py has logged why; the framework would add a traceback with the error's text.
            if message["type"] == "lifespan.startup.failed":
                message = {**message, "message": ""}
            await send(message)

        await self.app(scope, receive, send_without_text)

    def at_once(self, scope: Scope) -> tuple[Answer, str] | None:
        """The answer and the request's id, if all of the exchange can be had without waiting;
        protocol.py then needs no task for it."""
        started = perf_counter()
        id_, refusal = _inspect(scope)
        if refusal:
            return None
        try:
            answer = self._fast_lane(scope)
        except Exception:  # noqa: BLE001 - the other way may know an answer
            _log.exception("Unexpected error")
            return None
        if answer is None:
            return None
        id_ = id_ or next(self._ids)
        took = _milliseconds_since(started)
        method, route, status = scope["method"], answer.route, answer.status
        request_log.write(LoggedRequest(id_, method, route, status, took, answer.user_id))
        return answer, id_

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if known := self.at_once(scope):
            answer, known_id = known
            headers = [*complete(answer.headers), (b"x-request-id", known_id.encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})
            return
        started = perf_counter()
        id_, refusal = _inspect(scope)
        id_ = id_ or next(self._ids)
        request_id.set(id_)
        status = _CLIENT_CLOSED_REQUEST
        received = 0

        async def receive_bounded() -> Message:
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
                headers = complete(tuple(message["headers"]))
                message["headers"] = [*headers, (b"x-request-id", id_.encode())]
            await send(message)

        try:
            if refusal:
                await render(refusal())(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive_bounded, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        except Exception:  # noqa: BLE001 - whatever it was, the client gets an answer
            _log.exception("Unexpected error")
            if status == _CLIENT_CLOSED_REQUEST:
                await render(InternalError())(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            path = route.path if route else None
            caller: Caller | None = scope.get("state", {}).get("caller")
            user_id = caller.user_id if caller else None
            took = _milliseconds_since(started)
            request_log.write(LoggedRequest(id_, scope["method"], path, status, took, user_id))


def _inspect(scope: Scope) -> tuple[str | None, type[Refusal] | None]:
    """The caller's own id for this request, if it is fit to stand in a log, and the bound broken,
    if one is."""
    id_ = None
    refusal: type[Refusal] | None = None
    total = 0
    for name, value in scope["headers"]:
        total += len(name) + len(value)
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            refusal = ContentTooLargeError
        elif name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
            id_ = value.decode()
    if total > MAX_HEADER_BYTES:
        refusal = HeadersTooLargeError
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        refusal = UriTooLongError
    return id_, refusal


def complete(headers: tuple[Header, ...]) -> list[Header]:
    """With the defaults for what is not among them."""
    given = {name for name, _ in headers}
    return [*headers, *(header for header in _DEFAULT_HEADERS if header[0] not in given)]


def _milliseconds_since(started: float) -> float:
    return (perf_counter() - started) * 1000
