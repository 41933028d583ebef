"""A Flask app. Start it with `gunicorn --workers 2 --bind 127.0.0.1:9000 server:app`."""

import os

from flask import Flask, request

from hourpass import Guard
from hourpass.wsgi import GuardMiddleware

guard = Guard(os.environ["HOURPASS_URL"])
app = Flask(__name__)
app.wsgi_app = GuardMiddleware(app.wsgi_app, guard, public=["/health"])


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/predict")
def predict() -> str:
    return f"42 for {request.environ['hourpass.user'].username}"
