"""An API with the same route in four variants: open, behind a dependency that does nothing, behind
the guard as a dependency, and behind the guard as middleware. It also has a chat for everyone, for
users, and for users with the scope of its model.

Each variant is an application of its own, so that no route is found later than another.
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from hourpass import Guard, User, from_json

guard = Guard(os.environ["HOURPASS_URL"])
apis = {
    path: FastAPI()
    for path in (
        "/open",
        "/with-a-dependency",
        "/guarded",
        "/behind-middleware",
        "/chat-open",
        "/chat-guarded",
        "/chat-by-model",
    )
}
apis["/behind-middleware"].add_middleware(guard.middleware)


@apis["/open"].get("/open")
@apis["/behind-middleware"].get("/behind-middleware")
async def predict_for_all() -> dict[str, int]:
    return {"prediction": 42}


@apis["/behind-middleware"].websocket("/behind-middleware")
async def stream(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


async def nobody(_: HTTPConnection) -> None:
    """Measures the time that FastAPI needs for any dependency."""


@apis["/with-a-dependency"].get("/with-a-dependency")
async def predict_with(_: Annotated[None, Depends(nobody)]) -> dict[str, int]:
    return {"prediction": 42}


@apis["/guarded"].get("/guarded")
async def predict_for(_: Annotated[User, Depends(guard)]) -> dict[str, int]:
    return {"prediction": 42}


class Chat(BaseModel):
    model: str
    messages: list[dict[str, str]]


@apis["/chat-open"].post("/chat-open")
@apis["/chat-guarded"].post("/chat-guarded", dependencies=[Depends(guard)])
@apis["/chat-by-model"].post(
    "/chat-by-model",
    dependencies=[Depends(guard.require("predict:{model}", model=from_json("model")))],
)
async def chat(body: Chat) -> dict[str, int]:
    return {"prediction": len(body.messages)}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await apis.get(scope.get("path", ""), apis["/open"])(scope, receive, send)
