"""Real responses are as the OpenAPI document says: status, members, codes and headers."""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from tests.support.authenticator import begin
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.openapi import DOCUMENT, OPERATIONS, assert_documented
from tests.support.settings import Clock
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer, log_in, open_session

pytestmark = pytest.mark.sends_mail

NEW_PASSWORD = "guinevere in the garden"


class Caller:
    """Sends requests, and checks each response against the document."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.succeeded: set[str] = set()

    async def __call__(
        self, method: str, path: str, token: str | None = None, **sent: object
    ) -> Response:
        headers = bearer(token) if token else {}
        response = await self._client.request(method, path, headers=headers, **sent)  # type: ignore[arg-type] # httpx checks
        name = assert_documented(response)
        assert response.is_success, (name, response.text)
        self.succeeded.add(name)
        return response


@pytest.fixture
def call(client: AsyncClient) -> Caller:
    return Caller(client)


@on_sqlite
async def test_every_operation_answers_as_documented(
    app: FastAPI, client: AsyncClient, call: Caller, clock: Clock, mailbox: MailServer
) -> None:
    await call_without_a_user(call)
    await call("POST", "/register-user", json=LANCELOT)
    await call_as_a_user(app, client, call, mailbox)
    await call_about_second_factors(client, call, clock)
    await call_as_an_administrator(client, call)
    assert call.succeeded == set(OPERATIONS)


async def call_about_api_keys(call: Caller, token: str, path: str) -> None:
    key_id = (await call("POST", path, token, json={"name": "batch"})).json()["id"]
    for each in (path, f"{path}/{key_id}"):
        await call("GET", each, token)
    await call("PATCH", f"{path}/{key_id}", token, json={"networks": ["192.0.2.0/24"]})
    for act in ("suspend", "resume", "rotate"):
        await call("POST", f"{path}/{key_id}/{act}", token)
    await call("DELETE", f"{path}/{key_id}", token)


async def call_without_a_user(call: Caller) -> None:
    for path in ("/healthz", "/readyz", "/.well-known/jwks.json", "/revocations"):
        await call("GET", path)
    metadata = await call("GET", "/.well-known/oauth-authorization-server")
    flow = DOCUMENT["components"]["securitySchemes"]["Password"]["flows"]["password"]
    assert metadata.json()["scopes_supported"] == sorted(flow["scopes"])


async def call_as_a_user(
    app: FastAPI, client: AsyncClient, call: Caller, mailbox: MailServer
) -> None:
    session = (await call("POST", "/token", data={**LANCELOT, "scope": "offline_access"})).json()
    token = session["token"]
    await call("GET", f"/token_status/{token}")
    await call("GET", "/verify", token)
    await call("POST", "/introspect", token, data={"token": token})
    await call("POST", "/introspect", token, data={"token": "another"})
    await call("GET", "/me", token)
    await call("GET", "/me/audit", token)
    (listed,) = (await call("GET", "/me/sessions", token)).json()["sessions"]
    await call("DELETE", f"/me/sessions/{listed['id']}", token)
    token = await log_in(client, LANCELOT)
    await call_about_api_keys(call, token, "/me/api-keys")
    await call("POST", "/me/email-verification", token)
    await deliver(app)
    await call("POST", "/me/email-verification/confirm", token, json={"code": mailbox.last_code()})
    change = {"password": LANCELOT["password"], "email": "lake@camelot.example"}
    await call("PATCH", "/me", token, json=change)
    change = {"password": LANCELOT["password"], "new_password": NEW_PASSWORD}
    await call("POST", "/me/password", token, json=change)
    await call("POST", "/password-resets", json={"email": "lake@camelot.example"})
    await deliver(app)
    reset = {"code": mailbox.last_code(), "new_password": LANCELOT["password"]}
    await call("POST", "/password-resets/confirm", json=reset)
    token = await log_in(client, LANCELOT)
    await call("POST", "/me/logout-everywhere", token)
    await call("POST", "/revoke", data={"token": token})


async def call_about_second_factors(client: AsyncClient, call: Caller, clock: Clock) -> None:
    await call("POST", "/register-user", json=GALAHAD)
    token = await log_in(client, GALAHAD)
    await call("GET", "/me/second-factor", token)
    password = {"password": GALAHAD["password"]}
    await call("POST", "/me/second-factor", token, json=password)
    authenticator, token = await begin(client, GALAHAD, clock)
    code = {"otp": authenticator.code()}
    confirmed = await call("POST", "/me/second-factor/confirm", token, json=code)
    codes = confirmed.json()["recovery_codes"]
    logged_in = await call("POST", "/token", json={**GALAHAD, "otp": codes.pop()})
    token = logged_in.json()["token"]
    sent = {**password, "otp": codes.pop()}
    renewed = await call("POST", "/me/second-factor/recovery-codes", token, json=sent)
    sent = {**password, "otp": renewed.json()["recovery_codes"][0]}
    await call("DELETE", "/me/second-factor", token, json=sent)
    await call("DELETE", "/me", await log_in(client, GALAHAD), json=password)


async def call_as_an_administrator(client: AsyncClient, call: Caller) -> None:
    admin = await log_in(client, ARTHUR)
    new = {**GALAHAD, "scopes": ["predict"]}
    created = await call("POST", "/users", admin, json=new)
    user_id = created.json()["user_id"]
    assert created.json()["id"] == user_id
    assert created.headers["Location"] == f"/users/{user_id}"
    account = await call("POST", "/service-accounts", admin, json={"username": "svc-nightly"})
    assert account.headers["Location"] == f"/users/{account.json()['id']}"
    path = f"/service-accounts/{account.json()['id']}/api-keys"
    await call("POST", path, admin, json={"name": "scoring host"})
    for path in ("/users?limit=1", f"/users/{user_id}", "/audit", "/users?cursor="):
        await call("GET", path, admin)
    await call("PATCH", f"/users/{user_id}", admin, json={"email_verified": True})
    await open_session(client, GALAHAD)
    (session,) = (await call("GET", f"/users/{user_id}/sessions", admin)).json()["sessions"]
    await call("DELETE", f"/users/{user_id}/sessions/{session['id']}", admin)
    await call("POST", f"/users/{user_id}/revoke-tokens", admin)
    await call("PUT", f"/toggle-user-permission/{user_id}/1", admin)
    await call_about_api_keys(call, admin, f"/users/{user_id}/api-keys")
    await begin_second_factor(client)
    await call("DELETE", f"/users/{user_id}/second-factor", admin)
    path = f"/users/{user_id}/password-reset"
    await call("POST", path, admin, json={"by_mail": True, "language": "de"})
    await call("GET", path, admin)
    await call("POST", f"{path}/resend", admin)
    for email in (None, "percival@camelot.example"):
        invited = await call("POST", "/invitations", admin, json={"email": email})
    await call("POST", f"/invitations/{invited.json()['id']}/resend", admin)
    await call("GET", "/invitations", admin)
    await call("DELETE", f"/invitations/{invited.json()['id']}", admin)
    await call("GET", "/revocations")
    await call_about_groups(call, admin, user_id)
    await call_about_webhooks(call, admin)
    await call("DELETE", f"/remove-user/{user_id}", admin)
    await call("DELETE", f"/users/{user_id}/personal-data", admin)


async def call_about_groups(call: Caller, admin: str, user_id: int) -> None:
    group = {"name": "fraud-team", "scopes": ["predict:fraud-*"]}
    created = await call("POST", "/groups", admin, json=group)
    path = created.headers["Location"]
    assert path == "/groups/fraud-team"
    member = f"{path}/members/{user_id}"
    await call("PUT", member, admin)
    for read in ("/groups", path, f"{path}/members", f"/users/{user_id}/groups"):
        await call("GET", read, admin)
    await call("PATCH", path, admin, json={"scopes": ["predict:fraud-v3"]})
    await call("DELETE", member, admin)
    await call("DELETE", path, admin)


async def call_about_webhooks(call: Caller, admin: str) -> None:
    body = {"url": "https://localhost/hook", "types": ["user.created"]}
    created = await call("POST", "/webhooks", admin, json=body)
    path = created.headers["Location"]
    assert path == "/webhooks/1"
    await call("POST", "/users", admin, json={**GALAHAD, "username": "gareth"})
    for read in ("/webhooks", path, f"{path}/deliveries"):
        await call("GET", read, admin)
    await call("PATCH", path, admin, json={"types": []})
    for act in ("rotate-secret", "test", "retry"):
        await call("POST", f"{path}/{act}", admin)
    await call("DELETE", path, admin)


async def begin_second_factor(client: AsyncClient) -> None:
    sent = {"password": GALAHAD["password"]}
    token = await log_in(client, GALAHAD)
    response = await client.post("/me/second-factor", json=sent, headers=bearer(token))
    assert response.status_code == 201


@on_sqlite
async def test_keys_that_have_not_changed_are_not_sent_again(client: AsyncClient) -> None:
    etag = (await client.get("/.well-known/jwks.json")).headers["ETag"]
    again = await client.get("/.well-known/jwks.json", headers={"If-None-Match": etag})
    assert_documented(again)
    assert again.status_code == 304


@on_sqlite
@pytest.mark.parametrize("path", ["/users?cursor=", "/audit?cursor=", "/invitations?cursor="])
async def test_an_empty_cursor_is_the_first_page(
    client: AsyncClient, arthurs_token: str, path: str
) -> None:
    headers = bearer(arthurs_token)
    first = await client.get(path.partition("?")[0], headers=headers)
    assert (await client.get(path, headers=headers)).json() == first.json()
