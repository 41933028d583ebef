"""Only administrators may disable and remove users. Tokens are accepted in several forms."""

from itertools import product

import pytest
from httpx import AsyncClient, Response

from app.context import RequestContext
from app.users.service import Users
from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, assert_problem, bearer, log_in, register, token_is_valid

Call = tuple[str, str]

CALLS = [("PUT", "/toggle-user-permission/{}/0"), ("DELETE", "/remove-user/{}")]

NOBODY = 4_711
NOBODY_ENABLED = f"/toggle-user-permission/{NOBODY}/1"


async def make(client: AsyncClient, call: Call, user_id: object, token: str = "") -> Response:
    method, path = call
    headers = bearer(token) if token else {}
    return await client.request(method, path.format(user_id), headers=headers)


async def test_only_an_administrator_may(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for call in CALLS:
        with subtests.test(str(call)):
            person = {**LANCELOT, "username": call[0]}
            user_id = await register(client, person)
            token = await log_in(client, person)

            response = await make(client, call, user_id)
            assert_problem(response, 401, "missing_token")
            assert response.headers["www-authenticate"] == 'Bearer realm="hourpass"'

            response = await make(client, call, user_id, token)
            assert_problem(response, 403, "insufficient_scope")
            assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
            assert await token_is_valid(client, token)

            response = await make(client, call, user_id, arthurs_token)
            assert response.status_code == 200
            assert response.json() == (
                {"message": "User permission updated successfully", "user_id": user_id}
                if call[0] == "PUT"
                else {"message": "User deleted successfully"}
            )
            assert not await token_is_valid(client, token)


async def test_an_unknown_user_is_not_found(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for call, user_id in product(CALLS, (NOBODY, 2**63 - 1)):
        with subtests.test(f"{call} {user_id}"):
            response = await make(client, call, user_id, arthurs_token)
            assert assert_problem(response, 404, "user_not_found")["message"] == "User not found"


INVALID_IDS = {
    "zero": "0",
    "a negative number": "-1",
    "a number past 64 bits": str(2**63),
    "a number of 5000 digits": "9" * 5_000,
    "a text": "arthur",
    "a fraction": "1.5",
    "a fraction that is none": "1.0",
    "with a separator": "1_0",
    "with a sign": "+1",
    "with a zero before it": "01",
    "with a space": "%201",
    "with digits of another script": "%D9%A1",
}


@on_sqlite
async def test_an_id_is_a_positive_number_of_64_bits(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for call, (case, user_id) in product(CALLS, INVALID_IDS.items()):
        with subtests.test(f"{call} {case}"):
            response = await make(client, call, user_id, arthurs_token)
            body = assert_problem(response, 422, "invalid_request")
            assert [problem["field"] for problem in body["fields"]] == ["user_id"]
            # Unauthenticated clients do not learn what is wrong with the request either.
            assert_problem(await make(client, call, user_id), 401, "missing_token")


@on_sqlite
async def test_a_permission_is_zero_or_one(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for permission in ("2", "-1", "yes", "01", "+1", "1.0", "0_1"):
        with subtests.test(permission):
            url = f"/toggle-user-permission/1/{permission}"
            body = assert_problem(
                await client.put(url, headers=bearer(arthurs_token)), 422, "invalid_request"
            )
            assert [problem["field"] for problem in body["fields"]] == ["permission"]


ACCEPTED_HEADERS = {
    "as RFC 6750 has it": "Bearer {}",
    "in lower case": "bearer {}",
    "in upper case": "BEARER {}",
    "after more than one space": "Bearer   {}",
    "without a scheme": "{}",
}


@on_sqlite
async def test_a_token_is_accepted(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for case, header in ACCEPTED_HEADERS.items():
        with subtests.test(case):
            headers = {"Authorization": header.format(arthurs_token)}
            response = await client.put(NOBODY_ENABLED, headers=headers)
            assert_problem(response, 404, "user_not_found")


REFUSED_HEADERS = {
    "under another scheme": (["Basic {}"], "missing_token"),
    "under an unknown scheme": (["Token {}"], "missing_token"),
    "under a scheme that begins like ours": (["Bearerx {}"], "missing_token"),
    "sent twice": (["Bearer {}", "Bearer {}"], "invalid_token"),
    "beside another scheme": (["Basic x", "Bearer {}"], "invalid_token"),
    "doubled": (["Bearer {} {}"], "invalid_token"),
    "in a list": (["Bearer {}, Bearer {}"], "invalid_token"),
    "left out after its scheme": (["Bearer"], "invalid_token"),
}


@on_sqlite
async def test_a_token_is_refused(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for case, (headers, error) in REFUSED_HEADERS.items():
        with subtests.test(case):
            sent = [("Authorization", header.replace("{}", arthurs_token)) for header in headers]
            response = await client.put(NOBODY_ENABLED, headers=sent)
            assert_problem(response, 401, error)
            assert ("error=" in response.headers["www-authenticate"]) == (error == "invalid_token")


@on_sqlite
@pytest.mark.parametrize("call", CALLS, ids=["disabling", "removing"])
async def test_a_removed_or_disabled_administrator_loses_the_scope_at_once(
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    arthurs_token: str,
    call: Call,
) -> None:
    arthur = (await client.get("/me", headers=bearer(arthurs_token))).json()["id"]
    await users.set_scopes(
        context, await register(client, LANCELOT), {"admin"}
    )  # one has to remain
    assert (await make(client, call, arthur, arthurs_token)).status_code == 200
    assert_problem(await make(client, call, NOBODY, arthurs_token), 401, "invalid_token")
