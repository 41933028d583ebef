"""The same route twice: for everybody, and for those whom the guard lets in."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI

from hourpass import Guard, User

guard = Guard(os.environ["HOURPASS_URL"])
app = FastAPI()


@app.get("/open")
async def predict_for_all() -> dict[str, int]:
    return {"prediction": 42}


@app.get("/guarded")
async def predict_for(_: Annotated[User, Depends(guard)]) -> dict[str, int]:
    return {"prediction": 42}
