"""The calls of tests/support/generated_clients.py with the client of openapi-python-client."""

import os
from typing import TypeVar

from hourpass_client import AuthenticatedClient, Client
from hourpass_client.api.administration import (
    change_api_key_of_user,
    change_user,
    create_invitation,
    create_user,
    force_password_reset,
    list_users,
    read_user,
)
from hourpass_client.api.groups import (
    add_member_to_group,
    change_group,
    create_group,
    list_members_of_group,
    remove_member_from_group,
)
from hourpass_client.api.my_account import change_own_profile, read_own_profile
from hourpass_client.api.my_api_keys import (
    change_own_api_key,
    create_own_api_key,
    list_own_api_keys,
    revoke_own_api_key,
    rotate_own_api_key,
)
from hourpass_client.api.registration_and_login import issue_token
from hourpass_client.api.tokens import verify_token
from hourpass_client.api.webhooks import change_webhook
from hourpass_client.models import (
    AdminPasswordReset,
    ApiKeyChange,
    ApiKeyRotation,
    ErrorBody,
    GroupChange,
    InvitationRequest,
    IssuedToken,
    NewApiKey,
    NewGroup,
    NewUserByAdmin,
    ProfileChange,
    TokenRequest,
    UserChange,
    WebhookChange,
)

T = TypeVar("T")
URL = os.environ["HOURPASS_URL"]
NAME, PASSWORD = os.environ["NAME"], os.environ["PASSWORD"]
USER_ID = int(os.environ["USER_ID"])
OWN_KEY_ID, USER_KEY_ID = os.environ["OWN_KEY_ID"], os.environ["USER_KEY_ID"]
GROUP = os.environ["GROUP"]
WEBHOOK_ID = int(os.environ["WEBHOOK_ID"])


def succeeded(call: str, answer: ErrorBody | T | None) -> T:
    assert answer is not None
    assert not isinstance(answer, ErrorBody), (call, answer)
    print(call)
    return answer


with Client(base_url=URL, raise_on_unexpected_status=True) as anybody:
    wrong = TokenRequest(username=NAME, password="wrong")
    refused = issue_token.sync(client=anybody, body=wrong)
    assert isinstance(refused, ErrorBody)
    assert refused.error == "invalid_grant"
    login = TokenRequest(username=NAME, password=PASSWORD)
    issued: IssuedToken = succeeded("issueToken", issue_token.sync(client=anybody, body=login))

with AuthenticatedClient(URL, issued.access_token, raise_on_unexpected_status=True) as api:
    assert succeeded("readOwnProfile", read_own_profile.sync(client=api)).username == NAME
    verified = succeeded("verifyToken", verify_token.sync(client=api, scope=["predict", "train"]))
    assert verified.message == "Token is valid"

    new = NewUserByAdmin(username=f"{NAME}-new", password=PASSWORD)
    created = succeeded("createUser", create_user.sync(client=api, body=new))
    assert created.id == created.user_id
    reset = force_password_reset.sync(created.id, client=api, body=AdminPasswordReset())
    assert succeeded("forcePasswordReset", reset).code
    invited = succeeded(
        "createInvitation", create_invitation.sync(client=api, body=InvitationRequest())
    )
    assert invited.code

    first = succeeded("listUsers", list_users.sync(client=api, limit=1))
    assert first.next_cursor
    second = list_users.sync(client=api, limit=1, cursor=first.next_cursor)
    assert succeeded("listUsers", second).users[0].id > first.users[0].id

    assert succeeded("readUser", read_user.sync(USER_ID, client=api)).is_enabled is False
    change = change_user.sync(USER_ID, client=api, body=UserChange(is_enabled=True))
    assert succeeded("changeUser", change).is_enabled is True
    own = ProfileChange(password=PASSWORD, email=f"{NAME}@new.example")
    changed = succeeded("changeOwnProfile", change_own_profile.sync(client=api, body=own))
    assert changed.email == f"{NAME}@new.example"

    new_key = NewApiKey(name="new", expires_in_days=1)
    key = succeeded("createOwnApiKey", create_own_api_key.sync(client=api, body=new_key))
    assert key.key.startswith(f"hp_{key.id}")
    assert key.expires_at > key.created_at
    keys = succeeded("listOwnApiKeys", list_own_api_keys.sync(client=api, limit=1))
    assert (keys.api_keys[0].id, keys.api_keys[0].last_used_on) == (key.id, None)
    rotation = ApiKeyRotation(overlap_seconds=60)
    rotated = succeeded(
        "rotateOwnApiKey", rotate_own_api_key.sync(key.id, client=api, body=rotation)
    )
    assert (rotated.id != key.id, rotated.name) == (True, "new")
    revoked = succeeded("revokeOwnApiKey", revoke_own_api_key.sync(rotated.id, client=api))
    assert revoked.status == "revoked"
    renaming = change_own_api_key.sync(OWN_KEY_ID, client=api, body=ApiKeyChange(name="changed"))
    assert succeeded("changeOwnApiKey", renaming).name == "changed"
    label = ApiKeyChange(label="changed")
    labelling = change_api_key_of_user.sync(USER_ID, USER_KEY_ID, client=api, body=label)
    assert succeeded("changeApiKeyOfUser", labelling).label == "changed"

    new_group = NewGroup(name=f"{NAME}-team", scopes=["predict:a-*"])
    team = succeeded("createGroup", create_group.sync(client=api, body=new_group))
    assert team.scopes == ["predict:a-*"]
    added = add_member_to_group.sync(team.name, USER_ID, client=api)
    assert succeeded("addMemberToGroup", added).message
    members = succeeded("listMembersOfGroup", list_members_of_group.sync(team.name, client=api))
    assert [member.id for member in members.members] == [USER_ID]
    removed = remove_member_from_group.sync(team.name, USER_ID, client=api)
    assert succeeded("removeMemberFromGroup", removed).message
    group_change = GroupChange(name=f"{GROUP}-changed")
    changed_group = change_group.sync(GROUP, client=api, body=group_change)
    assert succeeded("changeGroup", changed_group).name == f"{GROUP}-changed"
    disabling = WebhookChange(is_enabled=False)
    webhook = change_webhook.sync(WEBHOOK_ID, client=api, body=disabling)
    assert not succeeded("changeWebhook", webhook).is_enabled
