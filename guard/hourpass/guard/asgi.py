"""The types of ASGI, and a refusal in its messages."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hourpass.errors import GuardError
from hourpass.guard.refusals import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
_HTTP_IN_WEBSOCKET = "websocket.http.response"  # an ASGI extension


def client_address(scope: Scope) -> str | None:
    """The client's IP address, or None on a Unix socket."""
    client = scope.get("client")
    return client[0] if client else None


async def refuse(error: GuardError, refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer a request whose response has not begun."""
    is_websocket = scope["type"] == "websocket"
    if is_websocket and _HTTP_IN_WEBSOCKET not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": str(error)})
        return
    kind = _HTTP_IN_WEBSOCKET if is_websocket else "http.response"
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else refusal.body
    await send({"type": f"{kind}.body", "body": body})
