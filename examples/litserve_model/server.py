"""A model in LitServe that predicts the species of irises, for users of Hourpass only."""

import os
from typing import Any

from fastapi import HTTPException
from litserve import LitAPI, LitServer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from hourpass import Guard


class Irises(LitAPI):  # type: ignore[misc] # LitServe ships no types
    def setup(self, device: str) -> None:
        self.iris = load_iris()
        self.classifier = LogisticRegression(max_iter=200).fit(self.iris.data, self.iris.target)

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request.get("flower")

    def predict(self, flower: Any) -> str:
        try:
            (species,) = self.classifier.predict([flower])
        except (ValueError, TypeError):
            message = "flower: sepal length, sepal width, petal length and petal width, in cm"
            raise HTTPException(422, message) from None
        return str(self.iris.target_names[species])

    def encode_response(self, species: str) -> dict[str, str]:
        return {"species": species}


if __name__ == "__main__":
    guard = Guard(os.environ.get("HOURPASS_URL", "http://127.0.0.1:8000"))
    server = LitServer(
        Irises(),
        accelerator="cpu",
        middlewares=[(guard.middleware, {"public": ["/health"]})],
    )
    port = int(os.environ.get("LITSERVE_PORT", "9000"))
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
