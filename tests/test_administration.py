"""Who administers: the two administrative calls are for administrators, and who becomes one."""

import pytest
from httpx import AsyncClient, Response

from app.users.service import Users
from tests.conftest import Clock, on_sqlite
from tests.people import (
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    token_holds,
)

Call = tuple[str, str]

each_call = pytest.mark.parametrize(
    "call",
    [("PUT", "/toggle-user-permission/{}/0"), ("DELETE", "/remove-user/{}")],
    ids=["disabling", "removing"],
)

NOBODY = 4_711
NOBODY_ENABLED = f"/toggle-user-permission/{NOBODY}/1"


async def make(client: AsyncClient, call: Call, user_id: object, token: str = "") -> Response:
    method, path = call
    headers = bearer(token) if token else {}
    return await client.request(method, path.format(user_id), headers=headers)


@each_call
async def test_only_an_administrator_may(
    client: AsyncClient, arthurs_token: str, call: Call
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)

    response = await make(client, call, user_id)
    assert_problem(response, 401, "missing_token")
    assert response.headers["www-authenticate"] == 'Bearer realm="hourpass"'

    response = await make(client, call, user_id, token)
    assert_problem(response, 403, "insufficient_scope")
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
    assert await token_holds(client, token)

    response = await make(client, call, user_id, arthurs_token)
    assert response.status_code == 200
    assert response.json() == (
        {"message": "User permission updated successfully", "user_id": user_id}
        if call[0] == "PUT"
        else {"message": "User deleted successfully"}
    )
    assert not await token_holds(client, token)


@each_call
@pytest.mark.parametrize("user_id", [NOBODY, 2**63 - 1], ids=["small", "the largest"])
async def test_an_unknown_user_is_not_found(
    client: AsyncClient, arthurs_token: str, call: Call, user_id: int
) -> None:
    response = await make(client, call, user_id, arthurs_token)
    assert assert_problem(response, 404, "user_not_found")["message"] == "User not found"


@on_sqlite
@each_call
@pytest.mark.parametrize(
    "user_id",
    [
        pytest.param("0", id="zero"),
        pytest.param("-1", id="a negative number"),
        pytest.param(str(2**63), id="a number past 64 bits"),
        pytest.param("9" * 5_000, id="a number of 5000 digits"),
        pytest.param("arthur", id="a text"),
        pytest.param("1.5", id="a fraction"),
    ],
)
async def test_an_id_is_a_positive_number_of_64_bits(
    client: AsyncClient, arthurs_token: str, call: Call, user_id: str
) -> None:
    response = await make(client, call, user_id, arthurs_token)
    body = assert_problem(response, 422, "invalid_request")
    assert [problem["field"] for problem in body["fields"]] == ["user_id"]
    # Who may not ask is not told what is wrong with the question either.
    assert_problem(await make(client, call, user_id), 401, "missing_token")


@on_sqlite
@pytest.mark.parametrize("permission", ["2", "-1", "yes"])
async def test_a_permission_is_zero_or_one(
    client: AsyncClient, arthurs_token: str, permission: str
) -> None:
    url = f"/toggle-user-permission/1/{permission}"
    body = assert_problem(
        await client.put(url, headers=bearer(arthurs_token)), 422, "invalid_request"
    )
    assert [problem["field"] for problem in body["fields"]] == ["permission"]


@on_sqlite
@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Bearer {}", id="as RFC 6750 has it"),
        pytest.param("bearer {}", id="in lower case"),
        pytest.param("BEARER {}", id="in upper case"),
        pytest.param("Bearer   {}", id="after more than one space"),
        pytest.param("{}", id="without a scheme"),
    ],
)
async def test_a_token_is_accepted(client: AsyncClient, arthurs_token: str, header: str) -> None:
    headers = {"Authorization": header.format(arthurs_token)}
    response = await client.put(NOBODY_ENABLED, headers=headers)
    assert_problem(response, 404, "user_not_found")


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "error"),
    [
        pytest.param(["Basic {}"], "missing_token", id="under another scheme"),
        pytest.param(["Token {}"], "missing_token", id="under an unknown scheme"),
        pytest.param(["Bearer {}", "Bearer {}"], "invalid_token", id="sent twice"),
        pytest.param(["Basic x", "Bearer {}"], "invalid_token", id="beside another scheme"),
        pytest.param(["Bearer {} {}"], "invalid_token", id="doubled"),
        pytest.param(["Bearer {}, Bearer {}"], "invalid_token", id="in a list"),
        pytest.param(["Bearer"], "invalid_token", id="left out after its scheme"),
    ],
)
async def test_a_token_is_refused(
    client: AsyncClient, arthurs_token: str, headers: list[str], error: str
) -> None:
    sent = [("Authorization", header.replace("{}", arthurs_token)) for header in headers]
    response = await client.put(NOBODY_ENABLED, headers=sent)
    assert_problem(response, 401, error)
    assert ("error=" in response.headers["www-authenticate"]) == (error == "invalid_token")


@each_call
async def test_an_administrator_who_goes_loses_the_right_at_once(
    client: AsyncClient, users: Users, clock: Clock, arthurs_token: str, call: Call
) -> None:
    arthur = (await client.get("/me", headers=bearer(arthurs_token))).json()["id"]
    await users.grant(await register(client, LANCELOT), {"admin"}, clock())  # one has to remain
    assert (await make(client, call, arthur, arthurs_token)).status_code == 200
    assert_problem(await make(client, call, NOBODY, arthurs_token), 401, "invalid_token")
