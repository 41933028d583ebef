"""A token in `Sec-WebSocket-Protocol: bearer, <token>`: browsers can set no other header."""

from typing import Any

from hourpass.guard.asgi import Message, Scope, Send

SUBPROTOCOL = "bearer"


class TokenInSubprotocol:
    """`scope` is the websocket's, with the token in an `Authorization` header instead, if it
    comes without one."""

    def __init__(self, scope: Scope) -> None:
        offered = list(scope.get("subprotocols") or ())
        self.is_used = (
            len(offered) >= 2
            and offered[0] == SUBPROTOCOL
            and not any(name == b"authorization" for name, _ in scope["headers"])
        )
        self.scope = _moved(scope, *offered[1:]) if self.is_used else scope

    def sending(self, send: Send) -> Send:
        """Browsers give up if the app selects none of the subprotocols that they offer."""
        if not self.is_used:
            return send

        async def send_with_subprotocol(message: Message) -> None:
            if message["type"] == "websocket.accept" and not message.get("subprotocol"):
                message = {**message, "subprotocol": SUBPROTOCOL}
            await send(message)

        return send_with_subprotocol


def _moved(scope: Scope, token: str, *others: str) -> Scope:
    headers = [pair for pair in scope["headers"] if pair[0] != b"sec-websocket-protocol"]
    if others:
        headers.append((b"sec-websocket-protocol", ", ".join(others).encode("latin-1")))
    headers.append((b"authorization", f"Bearer {token}".encode("latin-1")))
    changed: dict[str, Any] = {**scope, "headers": headers, "subprotocols": list(others)}
    return changed
