"""A model server without users of its own. It predicts the species of irises.

The proxy accepts only users of Hourpass, and names them in headers. This server logs the name.
"""

import logging
from urllib.parse import unquote

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

log = logging.getLogger("uvicorn.error")
iris = load_iris()
classifier = LogisticRegression(max_iter=200).fit(iris.data, iris.target)


async def predict(request: Request) -> JSONResponse:
    try:
        species = classifier.predict((await request.json())["flowers"])
    except (ValueError, KeyError, TypeError):
        message = 'Send {"flowers": [[sepal length, sepal width, petal length, petal width], …]}'
        return JSONResponse({"message": message}, 422)
    name = unquote(request.headers["X-Auth-Username"])
    log.info("%r (user %s) asked", name, request.headers["X-Auth-User-Id"])
    return JSONResponse({"species": [str(iris.target_names[kind]) for kind in species]})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
