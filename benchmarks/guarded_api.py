"""The same route for everybody, behind a dependency that does nothing, and behind the guard."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from hourpass import Guard, User

guard = Guard(os.environ["HOURPASS_URL"])
app = FastAPI()


@app.get("/open")
async def predict_for_all() -> dict[str, int]:
    return {"prediction": 42}


@app.get("/guarded")
async def predict_for(_: Annotated[User, Depends(guard)]) -> dict[str, int]:
    return {"prediction": 42}


async def nobody(_: HTTPConnection) -> None:
    """What FastAPI itself takes for any dependency."""


@app.get("/with-a-dependency")
async def predict_with(_: Annotated[None, Depends(nobody)]) -> dict[str, int]:
    return {"prediction": 42}
