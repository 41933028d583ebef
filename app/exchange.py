"""What surrounds every HTTP exchange: bounds, an id, safe headers, one log line, a 500 at worst.

Pure ASGI and a single layer, because every request pays for it. It knows no route.
"""

import logging
import re
import secrets
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.error_responses import render
from app.errors import (
    ContentTooLargeError,
    HeadersTooLargeError,
    InternalError,
    Refusal,
    UriTooLongError,
)
from app.logs import request_id

MAX_BODY_BYTES = 16_384
MAX_HEADER_BYTES = 16_384
MAX_TARGET_BYTES = 8_192  # the request line's path and query; RFC 9110, 4.1 asks for 8,000

_CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; only ever logged
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

_log = logging.getLogger("hourpass.request")

# Set unless the route says otherwise. Answers about tokens and users are nobody's to cache
# (RFC 6749, 5.1), nothing here belongs in a frame, and /token_status/{token} is no referrer.
_DEFAULT_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Exchange:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

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

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        id_ = _given_id(scope) or secrets.token_hex(8)
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
                headers = MutableHeaders(scope=message)
                for name, value in _DEFAULT_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = id_
            await send(message)

        try:
            if refusal := _out_of_bounds(scope):
                await render(refusal())(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive_bounded, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        except Exception:
            _log.exception("Unexpected error")
            if status != _CLIENT_CLOSED_REQUEST:
                raise  # the answer has begun; only cutting the connection says that it failed
            await render(InternalError())(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            _log.info(
                "request",
                extra={
                    "method": scope["method"],
                    "route": route.path if route else None,
                    "status": status,
                    "ms": round((perf_counter() - started) * 1000, 2),
                    "user_id": scope.get("state", {}).get("user_id"),
                },
            )


def _given_id(scope: Scope) -> str | None:
    """The caller's own id for this request, if it is fit to stand in a log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if _REQUEST_ID.fullmatch(given) else None
    return None


def _out_of_bounds(scope: Scope) -> type[Refusal] | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        return UriTooLongError
    total = 0
    for name, value in scope["headers"]:
        total += len(name) + len(value)
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            return ContentTooLargeError
    return HeadersTooLargeError if total > MAX_HEADER_BYTES else None
