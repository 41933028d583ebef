"""A token with `nbf` is valid from that time on, and can be revoked before (RFC 7519, 4.1.5).

The service issues none. With HS256, others sign tokens with the same secret.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from jose import jwt

from app.settings import Settings
from app.tokens.signing_keys.keys import CLOCK_SKEW
from tests.support.apps import started_client
from tests.support.settings import Clock, make_settings
from tests.support.users import ARTHUR, bearer, claims_of, header_of, log_in, token_is_valid

SECRET = "the lady of the lake keeps it dry"
SECOND = timedelta(seconds=1)


@pytest.fixture
async def client(settings: Settings, clock: Clock) -> AsyncIterator[AsyncClient]:
    hs256 = make_settings(
        settings.database_url,
        signing_algorithm="HS256",
        hs256_secret=SECRET,
        first_admin_username=ARTHUR["username"],
        first_admin_password=ARTHUR["password"],
    )
    async with started_client(hs256, clock) as client:
        yield client


async def signed_elsewhere(client: AsyncClient, **claims: Any) -> str:
    """Arthur's token with other claims."""
    token = await log_in(client, ARTHUR)
    header = header_of(token)
    signed: str = jwt.encode(
        {**claims_of(token), "jti": "elsewhere", **claims}, SECRET, "HS256", headers=header
    )
    return signed


async def test_a_token_is_valid_from_its_nbf_on(client: AsyncClient, clock: Clock) -> None:
    start = clock.now + timedelta(minutes=10)
    token = await signed_elsewhere(client, nbf=int(start.timestamp()))
    clock.now = start - CLOCK_SKEW - SECOND
    assert not await token_is_valid(client, token)
    assert (await client.get("/me", headers=bearer(token))).status_code == 401
    clock.now = start - CLOCK_SKEW
    assert await token_is_valid(client, token)
    assert (await client.get("/me", headers=bearer(token))).status_code == 200
    clock.advance(timedelta(minutes=2))
    assert await token_is_valid(client, token)


async def test_a_malformed_nbf_makes_a_token_invalid(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    values: tuple[object, ...] = (None, True, "0", 0.5, [0], {})
    for value in values:
        with subtests.test(str(value)):
            assert not await token_is_valid(client, await signed_elsewhere(client, nbf=value))


async def test_a_token_can_be_revoked_before_it_is_valid(client: AsyncClient, clock: Clock) -> None:
    start = clock.now + timedelta(minutes=10)
    token = await signed_elsewhere(client, nbf=int(start.timestamp()))
    answer = (await client.post("/revoke", data={"token": token})).json()
    assert answer == {"message": "Token revoked", "revoked": True}
    clock.now = start
    assert not await token_is_valid(client, token)


async def test_a_token_that_could_outlast_its_revocation_is_not_called_revoked(
    client: AsyncClient, clock: Clock
) -> None:
    later = int((clock.now + timedelta(days=30)).timestamp())
    for claims in ({"iat": later, "exp": later + 3600}, {"sub": "nobody", "nbf": later}):
        token = await signed_elsewhere(client, **claims)
        answer = (await client.post("/revoke", data={"token": token})).json()
        assert answer["revoked"] is False
