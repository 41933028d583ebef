"""A BentoML service that calls an inner one. Start it with `bentoml serve service:Model`."""

import os

import bentoml

from hourpass import Guard

guard = Guard(os.environ["HOURPASS_URL"])


@bentoml.service
class Preprocessing:
    @bentoml.api
    def scale(self, value: float) -> float:
        return value / 10


@bentoml.service
class Model:
    preprocessing = bentoml.depends(Preprocessing)

    @bentoml.api
    def predict(self, value: float, ctx: bentoml.Context) -> str:
        scaled = self.preprocessing.scale(value=value)
        return f"{scaled} for {ctx.request.headers['x-auth-username']}"


Model.add_asgi_middleware(guard.middleware, public=["/livez", "/readyz"])
