"""The upper limit: an application that only returns a body as short as ours, under uvicorn."""

from starlette.types import Receive, Scope, Send

_BODY = b'{"message":"Token is valid"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def app(scope: Scope, _: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})
