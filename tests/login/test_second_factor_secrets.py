"""The secrets of authenticator apps are encrypted in the database, as the signing keys are."""

import pytest
from sqlalchemy import select, update

from app.credentials.second_factors.encryption import encryptor_for
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import Database, begin_write
from app.security.encryption import DecryptionError
from app.settings import Settings
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.store import KeyStore
from tests.support.apps import started_client
from tests.support.authenticator import STEP, enroll, log_in_with
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import GALAHAD, LANCELOT, register

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
    people = [LANCELOT, GALAHAD]
    authenticators = []
    async with started_client(plain, clock) as client:
        await register(client, LANCELOT)
        authenticators.append(await enroll(client, LANCELOT, clock))
        assert await stored(plain) == [each.parameters["secret"] for each in authenticators]
    async with started_client(sealed, clock) as client:
        await register(client, GALAHAD)
        authenticators.append(await enroll(client, GALAHAD, clock))
        for person, authenticator in zip(people, authenticators, strict=True):
            assert (await log_in_with(client, person, authenticator.code())).status_code == 200
            for secret in await stored(plain):
                assert secret.startswith("gAAAA")
                assert authenticator.parameters["secret"] not in secret
    clock.advance(STEP)
    async with started_client(sealed, clock) as client:
        for person, authenticator in zip(people, authenticators, strict=True):
            assert (await log_in_with(client, person, authenticator.code())).status_code == 200


@on_sqlite
async def test_secrets_that_cannot_be_decrypted_are_an_error_in_the_settings(
    sealed: Settings, clock: Clock
) -> None:
    async with started_client(sealed, clock) as client:
        for person in (LANCELOT, GALAHAD):
            await register(client, person)
            await enroll(client, person, clock)
    # HS256, so that no signing key is in the way.
    hs256 = {"signing_algorithm": "HS256", "hs256_secret": "x" * 32}
    without = make_settings(sealed.database_url, **hs256)
    another = make_settings(sealed.database_url, **hs256, secret_key=SECRET_KEY.upper())
    for settings in (without, another):
        with pytest.raises(DecryptionError, match=r"second factors .* SECRET_KEY"):
            async with started_client(settings, clock):
                pass
    # It is found behind a plain one too.
    database = Database(sealed)
    async with database.session() as session:
        await begin_write(session)
        first = update(SecondFactor).where(SecondFactor.user_id == 2)
        await session.execute(first.values(secret="GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"))
        await session.commit()
    await database.close()
    with pytest.raises(DecryptionError, match="second factors"):
        async with started_client(another, clock):
            pass


@on_sqlite
@pytest.mark.parametrize("kind", ["signing keys", "second factors"])
async def test_a_secret_that_was_encrypted_as_another_kind_is_refused(
    sealed: Settings, clock: Clock, kind: str
) -> None:
    """It is valid otherwise, and encrypted with the same SECRET_KEY."""
    async with started_client(sealed, clock) as client:
        await register(client, LANCELOT)
        await enroll(client, LANCELOT, clock)
    database = Database(sealed)
    async with database.session() as session:
        for_factors, for_keys = encryptor_for(sealed), KeyStore(sealed)._encryptor
        column, own, other = {
            "signing keys": (StoredKey.private_key, for_keys, for_factors),
            "second factors": (SecondFactor.secret, for_factors, for_keys),
        }[kind]
        (stored,) = await session.scalars(select(column))
        await session.rollback()
        for encryptor in (own, other):
            await begin_write(session)
            changed = encryptor.encrypt(own.decrypt(stored))
            await session.execute(update(column.class_).values({column: changed}))
            await session.commit()
            if encryptor is own:
                async with started_client(sealed, clock):
                    pass
    await database.close()
    with pytest.raises(DecryptionError, match=kind):
        async with started_client(sealed, clock):
            pass
