"""What is done to one user, or by one, leaves the other user as it is.

Each test has two users who both have a second factor and a session, so that it fails when a query
lacks the condition that names the user.
"""

from datetime import timedelta
from typing import Any

from httpx import AsyncClient, Response

from tests.authenticator import EnrolledUser, log_in_with
from tests.conftest import Clock
from tests.people import assert_problem, bearer

TwoUsers = tuple[EnrolledUser, EnrolledUser]


async def as_user(
    client: AsyncClient, user: EnrolledUser, method: str, path: str, **body: Any
) -> Response:
    return await client.request(method, path, json=body or None, headers=bearer(user.token))


async def second_factor(client: AsyncClient, user: EnrolledUser) -> tuple[bool, int]:
    """Whether the user has one, and how many recovery codes are left."""
    state = (await as_user(client, user, "GET", "/me/second-factor")).json()
    return state["enabled"], state["recovery_codes_left"]


async def test_a_recovery_code_counts_for_its_own_user_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers
) -> None:
    for user, other in (two_users, two_users[::-1]):
        for code in user.authenticator.recovery_codes:
            refused = await log_in_with(client, other.person, code)
            assert_problem(refused, 401, "invalid_grant")
    clock.advance(timedelta(minutes=1))  # so many refused logins cost each of them a delay
    for user in two_users:
        assert await second_factor(client, user) == (True, 10)
        code = user.authenticator.recovery_codes[0]
        assert (await log_in_with(client, user.person, code)).status_code == 200
