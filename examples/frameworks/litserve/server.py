"""A LitServe model that knows its user. Start it with `python server.py 9000`."""

import os
import sys
from typing import Annotated, Any

from fastapi import Depends, Request
from litserve import LitAPI, LitServer

from hourpass import Guard


async def body_and_user(request: Request) -> dict[str, Any]:
    """The model runs in another process, which gets what this returns."""
    return {**await request.json(), "username": request.headers["x-auth-username"]}


class Model(LitAPI):
    def setup(self, device: str) -> None: ...

    def decode_request(self, request: Annotated[dict[str, Any], Depends(body_and_user)]) -> str:
        return request["username"]

    def predict(self, username: str) -> str:
        return f"42 for {username}"

    def encode_response(self, prediction: str) -> dict[str, str]:
        return {"prediction": prediction}


if __name__ == "__main__":
    guard = Guard(os.environ["HOURPASS_URL"])
    server = LitServer(
        Model(), accelerator="cpu", middlewares=[(guard.middleware, {"public": ["/health"]})]
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
