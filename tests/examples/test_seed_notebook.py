"""The book's own notebook, cell by cell: its requests get the responses that it prints.

Only the first registration answers 201, because here nobody is registered yet. Members may be added
to a body, so the printed ones are what counts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import requests

from tests.support.markers import on_sqlite


def assert_prints(response: requests.Response, code: int, body: dict[str, Any]) -> None:
    print(f"Response code: {response.status_code}; Response: {response.json()}")  # noqa: T201 - as the notebook does
    assert response.status_code == code
    assert body.items() <= response.json().items()


@on_sqlite
def test_the_notebook_runs_as_printed(serve: Callable[..., AbstractContextManager[str]]) -> None:
    with serve() as url:
        user_dict = {
            "username": "eligijus",
            "password": "123456",
            "email": "eligijus@testmail.com",
        }

        response = requests.post(f"{url}/register-user", json=user_dict)
        user_id = response.json().get("user_id")
        assert isinstance(user_id, int)
        assert_prints(response, 201, {"message": "User created successfully", "user_id": user_id})

        response = requests.post(f"{url}/register-user", json=user_dict)
        assert_prints(response, 409, {"message": "User already exists", "user_id": user_id})

        response = requests.post(
            f"{url}/token", json={"username": "eligijus", "password": "654321"}
        )
        assert_prints(response, 401, {"message": "Invalid credentials"})

        response = requests.post(f"{url}/token", json=user_dict)
        token = response.json().get("token")
        assert_prints(response, 200, {"token": token})
        assert token.count(".") == 2

        response = requests.get(f"{url}/token_status/{token}")
        assert_prints(response, 200, {"message": "Token is valid"})

        response = requests.get(f"{url}/token_status/{token[:-1]}")
        assert_prints(response, 401, {"message": "Invalid token"})
