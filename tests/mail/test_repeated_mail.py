"""Each try sends the same message with the same code, as far as the process can know the code."""

import asyncio

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select

from app.mail.delivery import FIRST_DELAY, MAX_DELAY
from app.mail.models import OutgoingMail
from app.mail.worker import CLAIM_PERIOD
from app.maintenance.secret_rotation.encrypted_rows import count_secrets, encrypt_with_first
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code, EarlierHash
from app.tables import metadata
from tests.support.mail_server import MailServer, code_in, deliver, mail_worker
from tests.support.mailed_invitations import (
    KEY,
    NEW_KEY,
    change,
    count,
    invite,
    register_with,
    settings,
)
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.waiting import until

__all__ = ["settings"]


@on_sqlite
async def test_a_message_whose_acceptance_was_not_received_is_sent_again_unchanged(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    mailbox.drops = False
    clock.advance(FIRST_DELAY)
    await deliver(app)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)  # code, Message-ID, Date and all
    assert first["Date"] == "Mon, 23 Nov 2026 12:00:00 +0000"
    assert await count(app) == 0
    assert await count(app, EarlierHash) == 0
    assert await register_with(client, first) == 201
    assert await register_with(client, second, "galahad") == 403


@on_postgresql
async def test_a_message_whose_worker_died_is_sent_again_unchanged(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.is_free.clear()
    dying = mail_worker(app)
    running = asyncio.create_task(dying.run_once(asyncio.Event()))
    await until(lambda: bool(mailbox.messages))
    for task in (running, *dying._sending):
        task.cancel()
    await asyncio.wait({running})
    mailbox.is_free.set()
    await deliver(app)
    assert len(mailbox.messages) == 1  # other workers cannot know that it died
    clock.advance(CLAIM_PERIOD)
    await deliver(app)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)
    assert await register_with(client, first) == 201


@on_sqlite
async def test_a_process_that_cannot_know_the_code_sends_another_valid_one(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    mailbox.drops = True
    # Without SECRET_KEY, each process has a key of its own.
    for name, key, number in (("without", None, 3), ("with another", NEW_KEY, 2)):
        with subtests.test(f"{name} SECRET_KEY"):
            mailbox.messages.clear()
            change(app, secret_key=KEY)
            await invite(client, arthurs_token)
            await deliver(app)
            change(app, secret_key=key)
            for _ in range(2):
                clock.advance(FIRST_DELAY * 2)
                await deliver(app)
            texts = {code_in(message) for message in mailbox.messages}
            ids = {message["Message-ID"] for message in mailbox.messages}
            assert len(mailbox.messages) == 3
            assert len(texts) == len(ids) == number
            assert await register_with(client, mailbox.messages[0], f"first {name}") == 201
            assert await register_with(client, mailbox.messages[-1], f"last {name}") == 403
            assert await count(app, EarlierHash) == 0


@on_sqlite
async def test_a_rotation_of_secret_key_does_not_change_the_message(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    change(app, secret_key=f"{NEW_KEY},{KEY}")
    clock.advance(FIRST_DELAY)
    await deliver(app)
    async with app.state.database.session() as session:
        encrypted = await encrypt_with_first(session, app.state.settings, metadata, lambda _: None)
    assert encrypted.done >= 1
    change(app, secret_key=NEW_KEY)
    clock.advance(MAX_DELAY)
    await deliver(app)
    assert len({bytes(message) for message in mailbox.messages}) == 1
    assert len(mailbox.messages) == 3


@on_sqlite
async def test_a_code_that_no_value_decrypts_does_not_stop_a_rotation(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    """Such as one that was encrypted before SECRET_KEY was set: a new one is sent."""
    change(app, secret_key=None)
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    change(app, secret_key=f"{NEW_KEY},{KEY}")
    async with app.state.database.session() as session:
        await encrypt_with_first(session, app.state.settings, metadata, lambda _: None)
        counts = await count_secrets(session, app.state.settings, metadata)
    assert {each.content: (each.replaceable, each.undecryptable) for each in counts} == {
        "queued codes": (1, 0),
        "second factors": (0, 0),
        "signing keys": (0, 0),
        "webhook secrets": (0, 0),
    }


@on_sqlite
async def test_without_a_secret_key_a_process_sends_the_same_code_again(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    change(app, secret_key=None)
    worker = mail_worker(app)
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app, worker)
    clock.advance(FIRST_DELAY)
    await deliver(app, worker)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)


@on_sqlite
async def test_the_code_of_a_waiting_message_is_stored_only_encrypted(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    mailbox.drops = True
    for name, key in {"without": None, "with": KEY}.items():
        with subtests.test(f"{name} SECRET_KEY"):
            change(app, secret_key=key)
            await invite(client, arthurs_token)
            await deliver(app)
            code = mailbox.last_code()
            async with app.state.database.session() as session:
                stored = [
                    str(row)
                    for table in (OutgoingMail, Code, EarlierHash)
                    for row in (await session.execute(select(table.__table__))).all()
                ]
                encrypted = (await session.scalars(select(OutgoingMail.encrypted_code))).all()
            assert not any(text in row for row in stored for text in (code, code.replace("-", "")))
            assert len(encrypted) == len(mailbox.messages)
            assert all((text or "").startswith("gAAAA") for text in encrypted)


async def test_only_the_latest_texts_of_a_code_stay_valid(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How many is a documented number, which tests/project checks."""
    monkeypatch.setattr(codes, "MAX_EARLIER", 2)
    change(app, secret_key=None)
    await invite(client, arthurs_token)
    mailbox.drops = True
    for _ in range(4):
        await deliver(app)
        clock.advance(MAX_DELAY)
    assert await count(app, EarlierHash) == 2
    assert await register_with(client, mailbox.messages[0]) == 403
    assert await register_with(client, mailbox.messages[1]) == 201
