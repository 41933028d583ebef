"""Protects an ASGI app of any framework: requests need a valid token.

Put a CORS middleware outside of this one: browsers send a preflight without a token.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from hourpass.errors import GuardError
from hourpass.guard.token_verifier import bearer_token
from hourpass.user import User

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
_HTTP_IN_WEBSOCKET = "websocket.http.response"  # an ASGI extension


class Middleware:
    def __init__(
        self,
        app: ASGIApp,
        check: Callable[[str], Awaitable[User]],
        public: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._check = check
        self._public_paths, self._public_prefixes = _split(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_public(scope):
            await self.app(scope, receive, send)
            return
        try:
            user = await self._check(bearer_token(scope["headers"]))
        except GuardError as error:
            await _refuse(error, scope, send)
            return
        scope.setdefault("state", {})["user"] = user
        await self.app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        if scope["type"] not in ("http", "websocket"):
            return False
        path = _path_within(scope)
        is_named = path in self._public_paths or path.startswith(self._public_prefixes)
        return is_named and _has_one_meaning(path, scope.get("raw_path") or b"")


def _split(public: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Exact paths, and prefixes with their last slash."""
    if isinstance(public, str):
        raise TypeError("public is a list of paths")
    paths, prefixes = set(), []
    for pattern in public:
        path = pattern[:-1] if pattern.endswith("/*") else pattern
        if not path.startswith("/") or "*" in path:
            raise ValueError(f"a public path is /exact or /below/*, not {pattern}")
        if path is pattern:
            paths.add(path)
        else:
            prefixes.append(path)
    return frozenset(paths), tuple(prefixes)


def _path_within(scope: Scope) -> str:
    """The path relative to where the app is mounted, as its routes see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def _has_one_meaning(path: str, raw_path: bytes) -> bool:
    """False if the app could read it as another path: `/static/../private`, `/static//private`, a
    path that is encoded twice, or an encoded slash."""
    _, *segments = path.split("/")  # the first is empty: a public path begins with a slash
    return not (
        "" in segments[:-1]
        or any(segment.partition(";")[0] in (".", "..") for segment in segments)
        or any(character in path for character in "%\\\0")
        or b"%2f" in raw_path.lower()
    )


async def _refuse(error: GuardError, scope: Scope, send: Send) -> None:
    is_websocket = scope["type"] == "websocket"
    if is_websocket and _HTTP_IN_WEBSOCKET not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": str(error)})
        return
    body = json.dumps({"message": str(error), "error": error.code}).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **error.headers(),
    }
    kind = _HTTP_IN_WEBSOCKET if is_websocket else "http.response"
    await send(
        {
            "type": f"{kind}.start",
            "status": error.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": f"{kind}.body", "body": body})
