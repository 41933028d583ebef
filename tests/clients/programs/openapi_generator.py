"""The calls of tests/support/generated_clients.py with the Python client of OpenAPI Generator."""

import json
import os

from hourpass_client import (
    AdministrationApi,
    AdminPasswordReset,
    ApiClient,
    Configuration,
    InvitationRequest,
    MyAccountApi,
    NewUserByAdmin,
    ProfileChange,
    RegistrationAndLoginApi,
    TokenRequest,
    TokensApi,
    UserChange,
)
from hourpass_client.exceptions import UnauthorizedException

URL = os.environ["HOURPASS_URL"]
NAME, PASSWORD = os.environ["NAME"], os.environ["PASSWORD"]
USER_ID = int(os.environ["USER_ID"])

configuration = Configuration(host=URL)
client = ApiClient(configuration)
login = RegistrationAndLoginApi(client)
refusal = ""
try:
    login.issue_token(TokenRequest(username=NAME, password="wrong"))
except UnauthorizedException as refused:
    refusal = refused.body or ""
assert json.loads(refusal)["error"] == "invalid_grant"
configuration.access_token = login.issue_token(
    TokenRequest(username=NAME, password=PASSWORD)
).access_token
print("issueToken")

assert MyAccountApi(client).read_own_profile().username == NAME
print("readOwnProfile")
assert TokensApi(client).verify_token(scope=["predict", "train"]).message == "Token is valid"
print("verifyToken")

api = AdministrationApi(client)
created = api.create_user(NewUserByAdmin(username=f"{NAME}-new", password=PASSWORD))
assert created.id == created.user_id
print("createUser")
assert api.force_password_reset(created.id, AdminPasswordReset()).code
print("forcePasswordReset")
assert api.create_invitation(InvitationRequest()).code
print("createInvitation")

first = api.list_users(limit=1)
print("listUsers")
second = api.list_users(limit=1, cursor=first.next_cursor)
assert second.users[0].id > first.users[0].id
print("listUsers")

assert api.read_user(USER_ID).is_enabled is False
print("readUser")
assert api.change_user(USER_ID, UserChange(is_enabled=True)).is_enabled is True
print("changeUser")
own = ProfileChange(password=PASSWORD, email=f"{NAME}@new.example")
assert MyAccountApi(client).change_own_profile(own).email == f"{NAME}@new.example"
print("changeOwnProfile")
