"""A Ray Serve app. Start it with `serve run server:app`."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from ray import serve

from hourpass import Guard, User

guard = Guard(os.environ["HOURPASS_URL"])
api = FastAPI()
guard.protect(api, public=["/health"])


@serve.deployment
@serve.ingress(api)
class Model:
    @api.get("/health")
    def health(self) -> str:
        return "ok"

    @api.post("/predict")
    def predict(self, user: Annotated[User, Depends(guard)]) -> str:
        return f"42 for {user.username}"


app = Model.bind()
