"""The calls of tests/support/generated_clients.py with the Python client of OpenAPI Generator."""

import json
import os

from hourpass_client import (
    AdministrationApi,
    AdminPasswordReset,
    ApiClient,
    ApiKeyChange,
    ApiKeyRotation,
    Configuration,
    GroupChange,
    GroupsApi,
    InvitationRequest,
    MyAccountApi,
    MyAPIKeysApi,
    NewApiKey,
    NewGroup,
    NewUserByAdmin,
    ProfileChange,
    RegistrationAndLoginApi,
    TokenRequest,
    TokensApi,
    UserChange,
    WebhookChange,
    WebhooksApi,
)
from hourpass_client.exceptions import UnauthorizedException

URL = os.environ["HOURPASS_URL"]
NAME, PASSWORD = os.environ["NAME"], os.environ["PASSWORD"]
USER_ID = int(os.environ["USER_ID"])
OWN_KEY_ID, USER_KEY_ID = os.environ["OWN_KEY_ID"], os.environ["USER_KEY_ID"]
GROUP = os.environ["GROUP"]
WEBHOOK_ID = int(os.environ["WEBHOOK_ID"])

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

keys = MyAPIKeysApi(client)
key = keys.create_own_api_key(NewApiKey(name="new", expires_in_days=1))
assert key.key.startswith(f"hp_{key.id}")
assert key.expires_at > key.created_at
print("createOwnApiKey")
(newest,) = keys.list_own_api_keys(limit=1).api_keys
assert (newest.id, newest.last_used_on) == (key.id, None)
print("listOwnApiKeys")
rotated = keys.rotate_own_api_key(key.id, ApiKeyRotation(overlap_seconds=60))
assert (rotated.id != key.id, rotated.name) == (True, "new")
print("rotateOwnApiKey")
assert keys.revoke_own_api_key(rotated.id).status == "revoked"
print("revokeOwnApiKey")
assert keys.change_own_api_key(OWN_KEY_ID, ApiKeyChange(name="changed")).name == "changed"
print("changeOwnApiKey")
label = ApiKeyChange(label="changed")
assert api.change_api_key_of_user(USER_ID, USER_KEY_ID, label).label == "changed"
print("changeApiKeyOfUser")

groups = GroupsApi(client)
team = groups.create_group(NewGroup(name=f"{NAME}-team", scopes=["predict:a-*"]))
assert team.scopes == ["predict:a-*"]
print("createGroup")
assert groups.add_member_to_group(team.name, USER_ID).message
print("addMemberToGroup")
assert [member.id for member in groups.list_members_of_group(team.name).members] == [USER_ID]
print("listMembersOfGroup")
assert groups.remove_member_from_group(team.name, USER_ID).message
print("removeMemberFromGroup")
new_name = f"{GROUP}-changed"
assert groups.change_group(GROUP, GroupChange(name=new_name)).name == new_name
print("changeGroup")

assert (
    not WebhooksApi(client).change_webhook(WEBHOOK_ID, WebhookChange(is_enabled=False)).is_enabled
)
print("changeWebhook")
