"""A client of Hourpass in the cells of a notebook: `python examples/notebook_client.py`.

It needs a running service and an administrator, ADMIN_USERNAME and ADMIN_PASSWORD in the
environment. It prints each response, and exits with status 1 at the first unexpected one.
"""

# %% Settings
import argparse
import json
import os
import sys

import requests

from hourpass import HourpassAuth

arguments = argparse.ArgumentParser(description="Walk through Hourpass as a client.")
arguments.add_argument("--url", default=os.environ.get("HOURPASS_URL", "http://localhost:8000"))
arguments.add_argument("--username", default="eligijus", help="who is registered and removed")
arguments.add_argument("--predict", metavar="URL", help="an API's call that takes Hourpass tokens")
arguments.add_argument(
    "--features", type=json.loads, default={"features": [5.1, 3.5, 1.4, 0.2]}, help="its JSON body"
)
options = arguments.parse_args()
url = options.url

if not {"ADMIN_USERNAME", "ADMIN_PASSWORD"} <= os.environ.keys():
    sys.exit("Set ADMIN_USERNAME and ADMIN_PASSWORD to those of an administrator")


def show(response: requests.Response, expected: int, message: str | None = None) -> None:
    body = response.text
    print(f"Response code: {response.status_code}; Response: {body}")
    if response.status_code != expected or (message and response.json()["message"] != message):
        sys.exit(f"Expected {expected} {message or ''}")


# %% Register a user
user_dict = {
    "username": options.username,
    "password": "nobody guesses 123456",
    "email": "eligijus@testmail.com",
}

response = requests.post(f"{url}/register-user", json=user_dict)
show(response, 201, "User created successfully")
user_id = response.json()["user_id"]

# %% A username can be registered once
show(requests.post(f"{url}/register-user", json=user_dict), 409, "User already exists")

# %% Log in with a wrong password
response = requests.post(f"{url}/token", json={**user_dict, "password": "654321"})
show(response, 401, "Invalid credentials")

# %% Log in with the right password
response = requests.post(f"{url}/token", json=user_dict)
show(response, 200)
token = response.json()["token"]

# %% Check the token
show(requests.get(f"{url}/token_status/{token}"), 200, "Token is valid")
show(requests.get(f"{url}/token_status/{token[:-1]}"), 401, "Invalid token")

# %% Read the account. The header accepts the token with the word Bearer and without it
show(requests.get(f"{url}/me", headers={"Authorization": f"Bearer {token}"}), 200)
show(requests.get(f"{url}/me", headers={"Authorization": token}), 200)

# %% Ask for a prediction. A token is valid for 60 minutes, and HourpassAuth renews it in time
if options.predict:
    with HourpassAuth(url, user_dict["username"], user_dict["password"]) as user:
        show(requests.post(options.predict, json=options.features, auth=user), 200)

# %% Only administrators can disable a user
path = f"{url}/toggle-user-permission/{user_id}"
show(requests.put(f"{path}/0"), 401)
show(requests.put(f"{path}/0", headers={"Authorization": token}), 403)

# %% Disable the user: the token is invalid at once, and the service issues no other
session = requests.Session()
session.auth = admin = HourpassAuth(
    url, os.environ["ADMIN_USERNAME"], os.environ["ADMIN_PASSWORD"], scopes=["admin"]
)
show(session.put(f"{path}/0"), 200, "User permission updated successfully")
show(requests.get(f"{url}/token_status/{token}"), 401, "Invalid token")
show(requests.post(f"{url}/token", json=user_dict), 401, "Invalid credentials")

# %% Enable the user: the service issues new tokens, and old ones stay invalid
show(session.put(f"{path}/1"), 200, "User permission updated successfully")
show(requests.get(f"{url}/token_status/{token}"), 401, "Invalid token")
response = requests.post(f"{url}/token", json=user_dict)
show(response, 200)
token = response.json()["token"]

# %% Remove the user
show(session.delete(f"{url}/remove-user/{user_id}"), 200, "User deleted successfully")
show(requests.get(f"{url}/token_status/{token}"), 401, "Invalid token")
show(session.delete(f"{url}/remove-user/{user_id}"), 404, "User not found")
show(session.put(f"{path}/1"), 404, "User not found")

# %% Log out
admin.close()
