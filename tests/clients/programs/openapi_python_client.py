"""The calls of tests/support/generated_clients.py with the client of openapi-python-client."""

import os
from typing import TypeVar

from hourpass_client import AuthenticatedClient, Client
from hourpass_client.api.administration import (
    change_user,
    create_invitation,
    create_user,
    force_password_reset,
    list_users,
    read_user,
)
from hourpass_client.api.my_account import change_own_profile, read_own_profile
from hourpass_client.api.registration_and_login import issue_token
from hourpass_client.api.tokens import verify_token
from hourpass_client.models import (
    AdminPasswordReset,
    ErrorBody,
    InvitationRequest,
    IssuedToken,
    NewUserByAdmin,
    ProfileChange,
    TokenRequest,
    UserChange,
)

T = TypeVar("T")
URL = os.environ["HOURPASS_URL"]
NAME, PASSWORD = os.environ["NAME"], os.environ["PASSWORD"]
USER_ID = int(os.environ["USER_ID"])


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
