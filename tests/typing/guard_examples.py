"""What users write, for mypy and pyright. Nothing here runs. The README has the first part."""

from pathlib import Path
from typing import Annotated, assert_type

import httpx
import httpx2
import requests
from fastapi import Depends, FastAPI
from openai import AsyncOpenAI, OpenAI

from hourpass import Guard, HourpassAuth, Requirement, User, from_form, from_json, from_query

guard = Guard("http://127.0.0.1:8000")
app = FastAPI()
guard.protect(app, public=["/health", "/static/*"])


@app.post("/predict")
async def predict(user: Annotated[User, Depends(guard)]) -> str:
    return f"42 for {user.username}"


@app.post("/train")
async def train(user: Annotated[User, Depends(guard.require("train"))]) -> str:
    return "trained"


@app.get("/health")
async def health(user: Annotated[User | None, Depends(guard.optional)]) -> str:
    return user.username if user else "nobody"


@app.post("/models/{model}/predict")
async def predict_with(
    model: str, user: Annotated[User, Depends(guard.require("predict:{model}"))]
) -> str:
    return model


by_body = guard.require("predict:{model}", model=from_json("model", "models", max_body=2**20))
by_form = guard.require("predict:{model}", model=from_form("model"))
by_query = guard.require("predict:{model}", model=from_query("model"))


@app.get("/v1/models")
async def models(user: Annotated[User, Depends(guard)]) -> list[str]:
    return guard.visible(user, ["fraud-v3", "iris"], "predict:{model}")


guard.protect(
    FastAPI(),
    scopes={
        "/models/{model}/predict": "predict:{model}",
        "/admin/*": ["manage", "read"],
        "/v1/chat/completions": Requirement("predict:{model}", model=from_json("model")),
    },
)
assert_type(guard.check("token"), User)
assert_type(guard.check("token", "predict:fraud-v3", "train"), User)
assert_type(guard.check("token", ip_address="192.0.2.1").key_id, str | None)
Guard("https://hourpass.example", api_key_headers=("x-api-key", "api-key"))
Guard("https://hourpass.example", transport=lambda: httpx.HTTPTransport(verify=False))
Guard("https://hourpass.example", transport=httpx2.HTTPTransport)

auth = HourpassAuth(
    "https://hourpass.example",
    "ada",
    "notes-on-the-engine",
    verify=Path("authority.pem"),
    cert=("client.pem", "client.key"),
    proxy="http://proxy.example:3128",
)
httpx.get("https://api.example", auth=auth)
httpx.AsyncClient(auth=auth)
httpx2.Client(auth=auth)
httpx2.AsyncClient(auth=auth)
requests.get("https://api.example", auth=auth)
requests.Session().auth = auth
OpenAI(api_key="unused", http_client=httpx2.Client(auth=auth))
OpenAI(api_key=auth.token)
AsyncOpenAI(api_key=auth.atoken)
