"""A client: registers a user, unless there is one, and asks for a prediction."""

import json
import os

import httpx

from hourpass import HourpassAuth

hourpass = os.environ.get("HOURPASS_URL", "http://127.0.0.1:8000")
api = os.environ.get("HEART_URL", "http://127.0.0.1:9000")
ada = {"username": "ada", "password": "notes-on-the-engine", "email": "ada@example.org"}
patient = json.loads(
    '{"age": 67, "sex": 1, "cp": 4, "trestbps": 160, "chol": 286, "fbs": 0, "restecg": 2,'
    ' "thalach": 108, "exang": 1, "oldpeak": 1.5, "slope": 2, "ca": 3, "thal": "normal"}'
)

registered = httpx.post(f"{hourpass}/register-user", json=ada)
if registered.status_code not in (201, 409):
    raise SystemExit(f"Cannot register: {registered.text}")
with HourpassAuth(hourpass, ada["username"], ada["password"]) as auth:
    # The API may still be connecting to Hourpass.
    answer = httpx.post(f"{api}/predict", json=patient, auth=auth, timeout=60)
    print(f"{answer.status_code} {answer.text}")
    answer.raise_for_status()
