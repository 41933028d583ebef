"""SECRET_KEY is rotated in four steps while workers run. No user has to log in again."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner, Result
from httpx import AsyncClient
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.cli.main import main
from app.context import RequestContext
from app.credentials.second_factors.encryption import encryptor_for
from app.credentials.second_factors.models import SecondFactor
from app.database.engine import Database, begin_write
from app.http import access_log
from app.maintenance.secret_rotation import encrypted_rows
from app.maintenance.secret_rotation.encrypted_rows import (
    count_secrets,
    encrypt_with_first,
)
from app.maintenance.secret_rotation.heartbeat import (
    Heartbeat,
)
from app.security.encrypted_columns import find_encrypted_columns
from app.security.encryption import DecryptionError, Encryptor, fingerprints
from app.settings import ROOT, Settings
from app.tables import metadata
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.store import KeyStore
from app.users.models import User
from app.webhooks.models import WebhookEndpoint
from tests.support.apps import started_client
from tests.support.authenticator import Authenticator, enroll, log_in_with
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import CHEAP_HASHING, Clock, make_settings
from tests.support.users import GALAHAD, LANCELOT, register, token_is_valid

OLD = "4f1d9be07c52a68e3f90b1d27ac4850e9d6b3c71f8a2e540"
NEW = "b83c05d1e9724f6ab0d8c2537e91f46ad50c8b7e2f3914c6"
FIRST, SECOND = "camelot:11", "camelot:22"

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
def hourpass(database_url: str) -> Command:
    """The command with a SECRET_KEY, beside the running workers."""

    async def run(*arguments: str, secret_key: str, stdin: str = "") -> Result:
        access_log.request_log.flush()
        access_log.request_log.configure(enabled=False, as_text=False)
        variables = {**CHEAP_HASHING, "DATABASE_URL": database_url, "SECRET_KEY": secret_key}
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ["secrets", *arguments], input=stdin, env=variables
        )
        for value in (OLD, NEW):
            assert value not in result.output
        return result

    return run


@pytest.fixture
def names() -> dict[str, str]:
    """The fingerprints."""
    settings = make_settings("sqlite:///x.db", secret_key=f"{OLD},{NEW}")
    return dict(zip((OLD, NEW), fingerprints(settings), strict=True))


@asynccontextmanager
async def worker(
    database_url: str, secret_key: str, name: str, clock: Clock
) -> AsyncIterator[AsyncClient]:
    """A worker of that name. It records its values when it starts, and deletes the record when it
    stops, by the real clock, which the command uses as well."""
    settings = make_settings(database_url, secret_key=secret_key)
    database = Database(settings)
    beat = Heartbeat(database, settings, name)
    async with started_client(settings, clock) as client:
        await beat.beat()
        yield client
        await beat.forget()
    await database.close()


class Logins:
    """The tokens and authenticators that users have, to try them at each worker."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens: list[str] = []
        self.authenticators: dict[str, Authenticator] = {}

    async def enroll(self, client: AsyncClient, person: dict[str, str]) -> None:
        await register(client, person)
        self.authenticators[person["username"]] = await enroll(client, person, self.clock)

    async def work_at(self, *clients: AsyncClient) -> None:
        for client in clients:
            for token in (*self.tokens[:1], *self.tokens[-2:]):  # the oldest and the newest
                assert await token_is_valid(client, token)
            for person in (LANCELOT, GALAHAD):
                if app := self.authenticators.get(person["username"]):
                    answer = await log_in_with(client, person, app.next_code())
                    assert answer.status_code == 200, answer.text
                    self.tokens.append(answer.json()["token"])


async def stored(database_url: str) -> list[str]:
    """All secrets as they are stored."""
    database = Database(make_settings(database_url))
    async with database.session() as session:
        found = [
            secret
            for column in (SecondFactor.secret, StoredKey.private_key)
            for secret in await session.scalars(select(column))
        ]
    await database.close()
    return found


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    for part in parts:
        assert part in result.output


@on_sqlite
async def test_a_rotation_interrupts_nothing_at_any_of_its_steps(
    database_url: str, clock: Clock, hourpass: Command, names: dict[str, str]
) -> None:
    logins = Logins(clock)
    both = f"{OLD},{NEW}"
    async with worker(database_url, OLD, FIRST, clock) as second:
        result = await hourpass("rotate", secret_key=OLD)
        assert "[>] 1." in result.output, result.output  # it encrypted the key of the first start
        await logins.enroll(second, LANCELOT)
        async with worker(database_url, both, SECOND, clock) as first:
            await logins.work_at(first, second)
            result = await hourpass("rotate", "--yes", secret_key=both)
            assert_refused(result, f"do not have the value {names[NEW]}: {FIRST} (seen", "[>] 1.")
            # Also with the SECRET_KEY of the next step, for which it is too early.
            result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
            assert_refused(result, f"do not have the value {names[NEW]}: {FIRST} (seen")
    before = await stored(database_url)

    async with worker(database_url, both, FIRST, clock) as second:
        result = await hourpass("rotate", "--yes", secret_key=both)
        assert (result.exit_code, "[>] 2." in result.output) == (0, True), result.output
        result = await hourpass("rotate", "--yes", secret_key=OLD)
        assert_refused(
            result, f"has no value {names[NEW]} here, but these workers have it: {FIRST}"
        )
        async with worker(database_url, f"{NEW},{OLD}", SECOND, clock) as first:
            await logins.enroll(first, GALAHAD)
            await logins.work_at(first, second)
            result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
            assert_refused(result, f"another value than {names[NEW]}: {FIRST} (seen", "[>] 2.")
    assert set(before) < set(await stored(database_url))

    async with (
        worker(database_url, f"{NEW},{OLD}", FIRST, clock) as first,
        worker(database_url, f"{NEW},{OLD}", SECOND, clock) as second,
    ):
        result = await hourpass("rotate", secret_key=f"{NEW},{OLD}", stdin="n\n")
        assert_refused(result, "[>] 3.", "Aborted")
        result, _ = await asyncio.gather(
            hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}"),
            logins.work_at(first, second),
        )
        assert result.exit_code == 0, result.output
        assert "Encrypted 2 secrets." in result.output
        assert "[>] 4. Remove the old value" in result.output
        assert f"Remove {names[OLD]}." in result.output
        await logins.work_at(first, second)
        assert not {*before} & {*await stored(database_url)}
        async with worker(database_url, NEW, "camelot:33", clock) as third:
            await logins.work_at(first, second, third)
            result = await hourpass("rotate", secret_key=NEW)
            assert f"still have other values: {FIRST} (seen" in result.output
    async with worker(database_url, NEW, FIRST, clock) as first:
        await logins.work_at(first)
        result = await hourpass("rotate", secret_key=NEW)
        assert "No rotation is under way." in result.output
    database = Database(make_settings(database_url))
    async with database.session() as session:
        of_rotations = select(Entry.details).where(Entry.action == "secret_key.rotate")
        (details,) = await session.scalars(of_rotations)
    await database.close()
    assert names[NEW] in str(details)


# Encrypting again


@pytest.fixture
async def enrolled(database_url: str, clock: Clock) -> AsyncIterator[Database]:
    """A database with a signing key and two second factors that OLD encrypts."""
    settings = make_settings(database_url, secret_key=OLD)
    database = Database(settings)
    async with database.session() as session:
        await KeyStore(settings).load(RequestContext(session, clock()))
        await begin_write(session)
        for person in (LANCELOT, GALAHAD):
            user = User(
                username=person["username"],
                username_folded=person["username"],
                password_hash="!",
                is_admin=False,
                created_at=clock(),
            )
            session.add(user)
            await session.flush()
            secret = encryptor_for(settings).encrypt("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
            times = dict.fromkeys(("created_at", "confirmed_at", "forgiven_at"), clock())
            session.add(SecondFactor(user_id=user.id, secret=secret, **times))
        await session.commit()
    yield database
    await database.close()


def rotating(database_url: str) -> Settings:
    return make_settings(database_url, secret_key=f"{NEW},{OLD}")


async def encrypt(database: Database, settings: Settings) -> encrypted_rows.Encrypted:
    async with database.session() as session:
        return await encrypt_with_first(session, settings, metadata, lambda _: None)


async def kill_encryption(database: Database, settings: Settings, after: int) -> None:
    """After so many batches."""
    reported: list[int] = []

    def kill(rows: int) -> None:
        reported.append(rows)
        if len(reported) == after:
            raise KeyboardInterrupt

    async with database.session() as session:
        with pytest.raises(KeyboardInterrupt):
            await encrypt_with_first(session, settings, metadata, kill)


async def counted(database: Database, settings: Settings) -> dict[str, int]:
    """How many secrets each value encrypts, and how many are plain or cannot be decrypted."""
    async with database.session() as session:
        counts = await count_secrets(session, settings, metadata)
    found = {"plain": 0, "lost": 0}
    for value, name in zip(fingerprints(settings), ("first", "second"), strict=False):
        found[name] = sum(count.by_value[value] for count in counts)
    for count in counts:
        found["plain"] += count.plain
        found["lost"] += count.undecryptable
    return {name: number for name, number in found.items() if number}


async def test_encryption_that_was_killed_continues_when_it_is_repeated(
    database_url: str, enrolled: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_rows, "BATCH_SIZE", 1)
    settings = rotating(database_url)
    await kill_encryption(enrolled, settings, 2)
    assert await counted(enrolled, settings) == {"first": 2, "second": 1}
    async with started_client(settings, clock) as client:
        assert (await client.get("/readyz")).status_code == 200
    only_new = make_settings(database_url, secret_key=NEW)
    assert await counted(enrolled, only_new) == {"first": 2, "lost": 1}
    assert await encrypt(enrolled, settings) == (1, 0)
    assert await counted(enrolled, only_new) == {"first": 3}
    assert await encrypt(enrolled, settings) == (0, 0)


@on_sqlite
async def test_a_worker_does_not_start_with_a_value_that_decrypts_half_of_the_secrets(
    database_url: str, enrolled: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old value alone does not decrypt the first second factor, nor the new one the last."""
    monkeypatch.setattr(encrypted_rows, "BATCH_SIZE", 1)
    await kill_encryption(enrolled, rotating(database_url), 1)
    hs256 = {"signing_algorithm": "HS256", "hs256_secret": "x" * 32}  # without a signing key
    for kept in (OLD, NEW):
        settings = make_settings(database_url, secret_key=kept, **hs256)
        with pytest.raises(DecryptionError, match=r"second factors .* add it after a comma"):
            async with started_client(settings, clock):
                pass


@on_sqlite
async def test_secrets_from_before_secret_key_was_set_are_encrypted_too(
    database_url: str, enrolled: Database
) -> None:
    async with enrolled.session() as session:
        await begin_write(session)
        plain = update(SecondFactor).where(SecondFactor.user_id == 2)
        await session.execute(plain.values(secret="GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"))
        await session.commit()
    settings = rotating(database_url)
    assert await counted(enrolled, settings) == {"plain": 1, "second": 2}
    assert await encrypt(enrolled, settings) == (3, 0)
    assert await counted(enrolled, settings) == {"first": 3}


async def test_a_kind_of_secrets_may_have_several_columns(
    database_url: str, enrolled: Database, clock: Clock
) -> None:
    """A webhook has a secret and the previous one."""
    old = Encryptor(make_settings(database_url, secret_key=OLD), "webhook secrets")
    async with enrolled.session() as session:
        await begin_write(session)
        webhook = WebhookEndpoint(
            url="https://camelot.example",
            types="",
            secret=old.encrypt("excalibur"),
            previous_secret="caliburn",
            is_enabled=True,
            created_at=clock(),
        )
        session.add(webhook)
        await session.commit()
        settings = rotating(database_url)
        assert await counted(enrolled, settings) == {"plain": 1, "second": 4}
        assert await encrypt(enrolled, settings) == (5, 0)
        assert await counted(enrolled, settings) == {"first": 5}
        await session.refresh(webhook)
    new = Encryptor(make_settings(database_url, secret_key=NEW), "webhook secrets")
    assert new.decrypt(webhook.secret) == "excalibur"
    assert new.decrypt(webhook.previous_secret or "") == "caliburn"


async def test_a_secret_that_changes_meanwhile_keeps_its_change(
    database_url: str, enrolled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may set up a second factor again."""
    settings = rotating(database_url)
    again = encryptor_for(settings).encrypt("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
    others = Database(settings)
    changes: list[str] = []

    async def change_first(session: AsyncSession) -> None:
        if not changes:
            changes.append(again)
            async with others.session() as other:
                await begin_write(other)
                await other.execute(update(SecondFactor).values(secret=again))
                await other.execute(update(StoredKey).values(private_key=again))
                await other.commit()
        await begin_write(session)

    monkeypatch.setattr(encrypted_rows, "begin_write", change_first)
    monkeypatch.setattr(encrypted_rows, "RETRY_SECONDS", 0)
    await encrypt(enrolled, settings)
    await others.close()
    assert set(await stored(database_url)) == {again}


@on_postgresql
async def test_a_row_that_a_worker_has_locked_is_encrypted_later(
    database_url: str, enrolled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_rows, "RETRY_SECONDS", 0)
    settings = rotating(database_url)
    locking = Database(settings)
    async with locking.session() as session:
        row = select(SecondFactor).where(SecondFactor.user_id == 2).with_for_update()
        await session.execute(row)
        assert await encrypt(enrolled, settings) == (2, 1)
        await session.rollback()
    await locking.close()
    assert await encrypt(enrolled, settings) == (1, 0)


@on_sqlite
@pytest.mark.usefixtures("enrolled")
async def test_the_command_says_that_locked_rows_are_left(
    hourpass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_one(*_: object) -> encrypted_rows.Encrypted:
        return encrypted_rows.Encrypted(2, 1)

    monkeypatch.setattr(encrypted_rows, "encrypt_with_first", leave_one)
    result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
    assert_refused(result, "1 secret could not be changed", "Repeat the command.")


@pytest.mark.usefixtures("enrolled")
async def test_the_command_names_secrets_that_no_value_decrypts(hourpass: Command) -> None:
    result = await hourpass("rotate", "--yes", secret_key=NEW)
    assert_refused(result, "2 second factors, 1 signing key. Add the value that does")
    result = await hourpass("status", secret_key=NEW)
    assert "decrypted by no value: 2 second factors, 1 signing key" in result.output
    assert_refused(await hourpass("rotate", secret_key=""), "SECRET_KEY is not set.")


async def test_status_shows_what_each_value_encrypts_and_which_worker_has_it(
    database_url: str, enrolled: Database, hourpass: Command, names: dict[str, str]
) -> None:
    await Heartbeat(enrolled, rotating(database_url), FIRST).beat()
    await Heartbeat(enrolled, make_settings(database_url), SECOND).beat()
    result = await hourpass("status", secret_key=f"{NEW},{OLD}")
    new, old, _, *workers = result.output.splitlines()[1:]
    assert new.split()[0::4] == [names[NEW], "none"]
    assert old.split()[:1] == [names[OLD]]
    assert old.endswith("2 second factors, 1 signing key")
    assert [line.split()[0] for line in workers] == ["WORKER", FIRST, SECOND]
    assert workers[1].endswith(f"{names[NEW]}, {names[OLD]}")
    assert workers[2].endswith("none")
    result = await hourpass("status", "--json", secret_key=f"{NEW},{OLD}")
    records = [json.loads(line) for line in result.output.splitlines()]
    assert [record.get("secrets") for record in records[:2]] == [
        {},
        {"second factors": 2, "signing keys": 1},
    ]
    assert [record.get("values") for record in records[2:]] == [[names[NEW], names[OLD]], []]


@on_sqlite
async def test_a_text_with_a_comma_that_was_one_value_still_decrypts(
    database_url: str, clock: Clock, hourpass: Command
) -> None:
    """Before values were separated by commas, the whole text was one value."""
    settings = make_settings(database_url, secret_key=f"{NEW},{OLD}")
    before = settings.model_copy()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(Settings, "secret_keys", property(lambda self: (self.secret_key,)))
    async with started_client(before, clock) as client:
        await register(client, LANCELOT)
        authenticator = await enroll(client, LANCELOT, clock)
    monkey.undo()
    async with started_client(settings, clock) as client:
        answer = await log_in_with(client, LANCELOT, authenticator.next_code())
        assert answer.status_code == 200
    result = await hourpass("status", secret_key=f"{NEW},{OLD}")
    assert "commas included: 1 second factor, 1 signing key" in result.output
    result = await hourpass("rotate", "--yes", secret_key=f"{NEW},{OLD}")
    assert "Encrypted 2 secrets." in result.output
    async with started_client(make_settings(database_url, secret_key=NEW), clock) as client:
        answer = await log_in_with(client, LANCELOT, authenticator.next_code())
        assert answer.status_code == 200


@on_sqlite
async def test_a_fingerprint_reveals_neither_the_value_nor_what_is_derived_from_it(
    database_url: str,
) -> None:
    settings = rotating(database_url)
    for fingerprint in fingerprints(settings):
        assert re.fullmatch(r"[0-9a-f]{16}", fingerprint)
        assert fingerprint not in NEW + OLD
    keys = {fernet._signing_key.hex() for fernet in encryptor_for(settings)._fernets}
    assert not any(fingerprint in key for fingerprint in fingerprints(settings) for key in keys)


def test_every_encryptor_has_its_column() -> None:
    """Otherwise a rotation would leave its secrets behind."""
    contents = {
        content
        for path in (ROOT / "app").rglob("*.py")
        for content in re.findall(
            r'Encryptor\(\s*.*?,\s*"([\w ]+)"\s*\)', path.read_text(), re.DOTALL
        )
    }
    assert contents == {each.content for each in find_encrypted_columns(metadata)}
    assert len(contents) >= 3
