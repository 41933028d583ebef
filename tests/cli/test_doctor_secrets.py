"""What `hourpass doctor` says about SECRET_KEY."""

from datetime import timedelta

import pytest

from app.credentials.second_factors.encryption import encryptor_for
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import Database, begin_write
from app.maintenance.secret_rotation.encrypted_rows import encrypt_with_first
from app.maintenance.secret_rotation.heartbeat import Heartbeat
from app.operations.doctor.finding import Finding
from app.operations.doctor.secrets import check_secrets
from app.settings import Settings
from app.tables import metadata
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings

OLD, NEW = "x" * 32, "y" * 32
PLAIN = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


async def findings(database: Database, settings: Settings) -> list[Finding]:
    async with database.session() as session:
        return await check_secrets(session, settings)


async def store(database: Database, encrypts: str | None, clock: Clock) -> None:
    """Arthur's second factor. The database has his signing key too, which is not encrypted."""
    settings = make_settings("sqlite:///x.db", secret_key=encrypts)
    async with database.session() as session:
        await begin_write(session)
        secret = encryptor_for(settings).encrypt(PLAIN)
        session.add(SecondFactor(user_id=1, secret=secret, created_at=clock(), forgiven_at=clock()))
        await session.commit()


@on_sqlite
@pytest.mark.parametrize(
    ("values", "at_worker", "encrypts", "state", "parts"),
    [
        pytest.param(
            None, None, OLD, "error", ["does not decrypt 1 second factor. Set it."], id="removed"
        ),
        pytest.param(
            NEW, NEW, OLD, "error", ["does not decrypt 1 second factor. Add the"], id="wrong"
        ),
        pytest.param(OLD, OLD, OLD, "warning", ["Not encrypted: 1 signing key."], id="plain ones"),
        pytest.param(
            f"{NEW},{OLD}",
            f"{NEW},{OLD}",
            OLD,
            "warning",
            ["Not encrypted: 1 signing key.", "of SECRET_KEY: 1 second factor."],
            id="ones of the old value",
        ),
        pytest.param(
            f"{OLD},{NEW}",
            OLD,
            OLD,
            "error",
            ["These workers lack the value", "camelot:1."],
            id="a worker without the new value",
        ),
        pytest.param(OLD, f"{OLD},{NEW}", OLD, "warning", ["step 1 is next"], id="begun elsewhere"),
        pytest.param(
            f"{OLD},{NEW}", f"{OLD},{NEW}", OLD, "warning", ["step 2 is next"], id="step 1 is done"
        ),
    ],
)
async def test_the_state_of_secret_key_is_found(
    database: Database,
    clock: Clock,
    values: str | None,
    at_worker: str | None,
    encrypts: str | None,
    state: str,
    parts: list[str],
) -> None:
    await store(database, encrypts, clock)
    settings = make_settings("sqlite:///x.db", secret_key=values)
    worker = make_settings("sqlite:///x.db", secret_key=at_worker)
    await Heartbeat(database, worker, "camelot:1").beat()
    found = await findings(database, settings)
    assert found[0].state == state
    text = "\n".join(finding.text for finding in found)
    for part in parts:
        assert part in text
    for secret in (OLD, NEW, PLAIN):
        assert secret not in text


@on_sqlite
async def test_without_secret_key_there_is_nothing_to_find(
    database: Database, clock: Clock
) -> None:
    """The check of the settings says that it is not set."""
    await store(database, None, clock)
    assert await findings(database, make_settings("sqlite:///x.db")) == []


async def test_all_is_well_after_a_rotation(database: Database, clock: Clock) -> None:
    await store(database, NEW, clock)
    settings = make_settings("sqlite:///x.db", secret_key=NEW)
    await Heartbeat(database, settings, "camelot:1").beat()
    async with database.session() as session:
        await encrypt_with_first(session, settings, metadata, lambda _: None)
    assert await findings(database, settings) == [
        ("secrets", "ok", "All of them are encrypted with SECRET_KEY.")
    ]
    clock.advance(timedelta(minutes=2))  # no worker is needed
    assert [finding.state for finding in await findings(database, settings)] == ["ok"]
