"""What an authenticator app is told is encrypted in the database, as the signing keys are."""

import pytest
from sqlalchemy import select

from app.database import Database
from app.second_factors.models import SecondFactor
from app.settings import Settings
from app.vault import KeyUnusableError
from tests.authenticator import STEP, enrol, log_in_with
from tests.conftest import Clock, make_settings
from tests.people import LANCELOT, Person, at_court, register

SECRET_KEY = "the lady of the lake keeps it dry"


@pytest.fixture
def sealed(settings: Settings) -> Settings:
    return make_settings(settings.database_url, secret_key=SECRET_KEY)


async def stored(settings: Settings) -> list[str]:
    database = Database(settings)
    async with database.session() as session:
        found = list(await session.scalars(select(SecondFactor.secret)))
    await database.close()
    return found


async def test_secrets_are_encrypted_under_secret_key_and_from_when_it_is_set(
    settings: Settings, sealed: Settings, clock: Clock
) -> None:
    plain = make_settings(settings.database_url)
    people: list[Person] = [LANCELOT, {**LANCELOT, "username": "galahad"}]
    async with at_court(plain, clock) as client:
        await register(client, people[0])
        authenticators = [await enrol(client, people[0], clock)]
        assert await stored(plain) == [authenticators[0].parameters["secret"]]
    async with at_court(sealed, clock) as client:
        await register(client, people[1])
        authenticators.append(await enrol(client, people[1], clock))
        for person, authenticator in zip(people, authenticators, strict=True):
            assert (await log_in_with(client, person, authenticator.code())).status_code == 200
            for secret in await stored(plain):
                assert secret.startswith("gAAAA")
                assert authenticator.parameters["secret"] not in secret
    clock.advance(STEP)
    async with at_court(sealed, clock) as client:
        for person, authenticator in zip(people, authenticators, strict=True):
            assert (await log_in_with(client, person, authenticator.code())).status_code == 200


async def test_secrets_that_cannot_be_decrypted_are_a_setting_to_mend(
    sealed: Settings, clock: Clock
) -> None:
    async with at_court(sealed, clock) as client:
        await register(client, LANCELOT)
        await enrol(client, LANCELOT, clock)
    # HS256, so that no signing key is in the way.
    hs256 = {"signing_algorithm": "HS256", "hs256_secret": "x" * 32}
    for change in ({}, {"secret_key": SECRET_KEY.upper()}):
        settings = make_settings(sealed.database_url, **hs256, **change)
        with pytest.raises(KeyUnusableError, match=r"second factors .* SECRET_KEY"):
            async with at_court(settings, clock):
                pass
