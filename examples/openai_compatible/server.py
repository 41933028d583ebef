"""An API compatible with OpenAI's, for users of Hourpass with a scope for the model.

Its models repeat the prompt word by word. Replace them with your own.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from time import time
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, File, Form, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from hourpass import Guard, GuardError, InsufficientScopeError, User, from_form, from_json

MODELS = ["fraud-v3", "fraud-v4", "iris"]
WORDS_PER_SECOND = 20


def openai_error(error: GuardError) -> dict[str, Any]:
    """The error body that OpenAI's clients expect."""
    message = str(error)
    if isinstance(error, InsufficientScopeError) and error.scope:
        message = f"{message}: {error.scope}"
    return {"error": {"message": message, "type": "authentication_error", "code": error.code}}


guard = Guard(os.environ.get("HOURPASS_URL", "http://127.0.0.1:8000"), on_refusal=openai_error)
app = FastAPI(max_body_size=64 * 1024 * 1024)
# Streams end when their key is revoked, since this covers the whole response.
guard.protect(app, public=["/health"])
Chatter = Annotated[User, Depends(guard.require("predict:{model}", model=from_json("model")))]
Speaker = Annotated[User, Depends(guard.require("predict:{model}", model=from_form("model")))]


class ChatMessage(BaseModel):
    role: str
    content: str


class Chat(BaseModel):
    model: str
    messages: list[ChatMessage]
    stream: bool = False


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/v1/models")
async def models(user: Annotated[User, Depends(guard)]) -> dict[str, Any]:
    visible = guard.visible(user, MODELS)
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in visible]}


@app.post("/v1/chat/completions")
async def complete(chat: Chat, user: Chatter) -> Any:
    if chat.model not in MODELS:
        error = {"message": f"No model {chat.model}", "code": "model_not_found"}
        return JSONResponse({"error": error}, 404)
    text = f"{user.username}: {chat.messages[-1].content}"
    if chat.stream:
        return StreamingResponse(events(chat.model, text), media_type="text/event-stream")
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return body_of("chat.completion", chat.model, [choice])


async def events(model: str, text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield event_of(model, {"content": f"{word} "}, None)
        await asyncio.sleep(1 / WORDS_PER_SECOND)
    yield event_of(model, {}, "stop")
    yield "data: [DONE]\n\n"


def event_of(model: str, delta: dict[str, str], finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps(body_of('chat.completion.chunk', model, [choice]))}\n\n"


def body_of(kind: str, model: str, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time()),
        "model": model,
        "choices": choices,
    }


@app.post("/v1/audio/transcriptions")
async def transcribe(
    user: Speaker, file: Annotated[UploadFile, File()], model: Annotated[str, Form()]
) -> dict[str, str]:
    size = len(await file.read())
    return {"text": f"{user.username}: {size} bytes for {model}"}
