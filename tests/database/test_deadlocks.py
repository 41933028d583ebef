"""No two transactions that lock the same rows end in a deadlock.

They lock the user before what belongs to the user, the members before the group, a code before its
mail, counters before the revocation feed, and several rows in the order of their ids. A deadlock
would be a 500 or 503 after a second.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, permutations
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy import select, true, update
from sqlalchemy.orm import InstrumentedAttribute

from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.schemas import ApiKeyChange, NewApiKey
from app.credentials.second_factors.service import HAS_SECOND_FACTOR
from app.credentials.sessions.models import Session
from app.database.engine import Database, begin_write
from app.errors import ApiError, UnavailableError
from app.groups.user_scopes import HAS_GROUPS
from app.mail import delivery
from app.mail.models import OutgoingMail
from app.mail.service import enqueue
from app.mail.worker import MailWorker
from app.maintenance.retention import service as retention
from app.operations.backup.revoke_everything import revoke_everything
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.one_time_codes.text import parse_code
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.service import clear, enforce_limit
from app.services import Services
from app.settings import Settings
from app.users.login_account import LoginAccount, find_login_account
from app.users.models import User
from app.users.schemas import NewUser
from app.webhooks.models import WebhookDelivery
from app.webhooks.worker import WebhookWorker
from tests.support.authenticator import EnrolledUser, register_enrolled
from tests.support.interleaved import Transaction, interleaver
from tests.support.markers import on_postgresql
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT

ELSEWHERE = "192.0.2.7"
NEW_PASSWORD = "a password that is new"
DAY = timedelta(days=1)

Operation = Callable[[RequestContext], Awaitable[object]]

# Pairs that lock several rows of one table, the first one with a statement for each.
OF_ONE_TABLE = {
    ("lock two users", "after a restore"),
    ("lock two users", "revoke for old guards"),
    ("fail to log in", "unlock"),
    ("fail to log in", "purge attempts"),
    ("unlock", "purge attempts"),
}


class BatchDeletedError(Exception):
    """Raised instead of deleting the next batch: here, nothing is committed."""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """With a mail server that takes no time."""

    async def send(*_: object) -> None: ...

    monkeypatch.setattr(delivery, "send", send)
    mail = {"smtp_url": "smtp://mail.camelot.example", "mail_from": "no-reply@camelot.example"}
    return Settings.model_validate({**settings.model_dump(), **mail})


@pytest.fixture
async def lancelot(client: AsyncClient, clock: Clock) -> EnrolledUser:
    """With a second factor, a session, and a message in the outbox."""
    return await register_enrolled(client, LANCELOT, clock)


@dataclass
class Prepared:
    """The rows that the operations work on."""

    services: Services
    settings: Settings
    database: Database
    lancelot: EnrolledUser
    account: LoginAccount
    session_id: str
    key_ids: list[str]
    kid: str
    codes: dict[Purpose, str]
    invitation_id: int
    webhook_id: int
    delivery_id: int
    mail_ids: dict[str, int]

    @property
    def otp(self) -> SecretStr:
        return SecretStr(self.lancelot.authenticator.code())

    @property
    def recovery_code(self) -> SecretStr:
        return SecretStr(parse_code(self.lancelot.authenticator.recovery_codes[0]))


async def prepare(
    services: Services,
    settings: Settings,
    context: RequestContext,
    lancelot: EnrolledUser,
    database: Database,
) -> Prepared:
    invited, invitation = await services.invitations.create(context, GALAHAD["email"], (), DAY)
    written = {Purpose.INVITE: parse_code(invitation)}
    session = context.session
    await begin_write(session)
    # Moves the row of user 1 behind Lancelot's. Without an order, the database reads it last.
    await session.execute(update(User).where(User.id == 1).values(scopes="move"))
    for purpose in (Purpose.VERIFY, Purpose.ADMIN_RESET):
        email = LANCELOT["email"]
        code, text = await codes.issue(context, purpose, user_id=lancelot.id, email=email)
        await enqueue(context, email, code)
        written[purpose] = parse_code(text)
    await session.commit()
    for name in ("knights", "squires"):
        await services.groups.create(context, name, ["a"])
    await services.groups.add_member(context, "knights", lancelot.id)
    webhook = await services.webhooks.create(context, "https://localhost/")  # which is not allowed
    await services.events.publish(context, "user.enable", lancelot.id)
    await session.commit()
    session_id = await session.scalar(select(Session.id))
    delivery_id = await session.scalar(select(WebhookDelivery.id))
    mail_ids = await mails_in_outbox(context)
    new_keys = [NewApiKey(name="batch") for _ in range(2)]
    made = [await services.api_keys.create(context, lancelot.id, new) for new in new_keys]
    account = await find_login_account(context, LANCELOT["username"], HAS_SECOND_FACTOR, HAS_GROUPS)
    assert session_id
    assert delivery_id
    assert account
    return Prepared(
        services=services,
        settings=settings,
        database=database,
        lancelot=lancelot,
        account=account,
        session_id=session_id,
        key_ids=[api_key.id for api_key, _ in made],
        kid=(await services.keys.load(context)).keys[0].kid,
        codes=written,
        invitation_id=invited.id,
        webhook_id=webhook.endpoint.id,
        delivery_id=delivery_id,
        mail_ids=mail_ids,
    )


async def mails_in_outbox(context: RequestContext) -> dict[str, int]:
    """By the purpose of their codes. The one without a code is a request for one."""
    found = select(OutgoingMail.id, Code.purpose).outerjoin(Code, OutgoingMail.code_id == Code.id)
    rows = await context.session.execute(found)
    return {purpose or "request a code": id_ for id_, purpose in rows}


def of_accounts(it: Prepared) -> dict[str, Operation]:
    users, resets, mail = it.services.users, it.services.password_resets, it.services.mail
    user_id, email = it.lancelot.id, LANCELOT["email"]
    newcomer = NewUser.model_validate(GALAHAD)
    reset, verify, invitation = (
        it.codes[purpose] for purpose in (Purpose.ADMIN_RESET, Purpose.VERIFY, Purpose.INVITE)
    )

    async def lock_users(context: RequestContext) -> None:
        """In two statements, as one that locks several administrators may get them."""
        await begin_write(context.session)
        for id_ in (1, user_id):
            await users.lock(context, id_)
        await context.session.commit()

    return {
        "change the password": lambda c: users.change_password(c, user_id, NEW_PASSWORD),
        "disable": lambda c: users.set_enabled(c, user_id, enabled=False),
        "change the address": lambda c: users.change(c, user_id, email=GALAHAD["email"]),
        "verify the address": lambda c: users.verify_email(c, user_id, verify),
        "ask for a code": lambda c: mail.request_verification(c, user_id),
        "ask for a reset": lambda c: resets.request(c, email),
        "reset the password": lambda c: resets.confirm(c, reset, NEW_PASSWORD),
        "force a reset": lambda c: resets.force(c, user_id, by_mail=True),
        "remove": lambda c: users.remove(c, user_id),
        "log out everywhere": lambda c: users.revoke_tokens(c, user_id),
        "register": lambda c: users.register(c, newcomer, is_counted=True),
        "register by invitation": lambda c: users.register(c, newcomer, invitation=invitation),
        "lock two users": lock_users,
    }


def of_credentials(it: Prepared) -> dict[str, Operation]:
    factors, sessions = it.services.second_factors, it.services.sessions
    user_id, password = it.lancelot.id, LANCELOT["password"]
    token = it.lancelot.refresh_token
    stolen = token[:-64] + 64 * "0"

    async def revoke_token(context: RequestContext) -> None:
        await begin_write(context.session)
        limit = it.services.login_limiter.actions
        await enforce_limit(context.session, "revocation", str(user_id), limit)
        await it.services.revocations.publish(context, "jti:x")
        await context.session.commit()

    async def clear_counters(context: RequestContext) -> None:
        await begin_write(context.session)
        await clear(context.session, LANCELOT["username"], ELSEWHERE, all_accounts=True)
        await context.session.commit()

    return {
        "open a session": lambda c: sessions.create(c, it.account, ""),
        "refresh a session": lambda c: sessions.refresh(c, token),
        "refresh with a used token": lambda c: sessions.refresh(c, stolen),
        "revoke a session": lambda c: sessions.revoke(c, user_id, it.session_id),
        "revoke all sessions": lambda c: sessions.revoke_all(c, user_id),
        "revoke a token": revoke_token,
        "fail to log in": lambda c: factors.remove(c, user_id, NEW_PASSWORD, it.otp),
        "enroll anew": lambda c: factors.enroll(c, user_id, password),
        "remove the factor": lambda c: factors.remove(c, user_id, password, it.recovery_code),
        "renew codes": lambda c: factors.renew_recovery_codes(c, user_id, password, it.otp),
        "reset the factor": lambda c: factors.reset(c, user_id),
        "unlock": clear_counters,
    }


def of_api_keys(it: Prepared) -> dict[str, Operation]:
    keys = it.services.api_keys
    user_id, key_id, other_id = it.lancelot.id, *it.key_ids
    new, change = NewApiKey(name="new"), ApiKeyChange(networks=["192.0.2.0/24"])

    async def resume(context: RequestContext) -> None:
        """A suspended key, in one transaction more."""
        await keys.suspend(context, user_id, other_id)
        await keys.resume(context, user_id, other_id)

    async def log_out(context: RequestContext) -> None:
        await keys.log_out_everywhere(context, user_id, it.account.token_version)

    return {
        "create a key": lambda c: keys.create(c, user_id, new),
        "change a key": lambda c: keys.update(c, user_id, key_id, change),
        "revoke an API key": lambda c: keys.revoke(c, user_id, key_id),
        "rotate a key": lambda c: keys.rotate(c, user_id, key_id, DAY),
        "suspend and resume a key": resume,
        "log out with all keys": log_out,
    }


def of_groups(it: Prepared) -> dict[str, Operation]:
    groups, user_id = it.services.groups, it.lancelot.id
    revoke_access_tokens = it.services.sessions.revoke_access_tokens

    async def revoke_slice(context: RequestContext) -> None:
        await begin_write(context.session)
        await revoke_access_tokens(context, [1, user_id])
        await context.session.commit()

    return {
        "narrow a group": lambda c: groups.update(c, "knights", scopes=["b"]),
        "rename a group": lambda c: groups.update(c, "knights", new_name="table"),
        "delete a group": lambda c: groups.delete(c, "knights"),
        "join a group": lambda c: groups.add_member(c, "squires", user_id),
        "leave a group": lambda c: groups.remove_member(c, "knights", user_id),
        "revoke for old guards": revoke_slice,
    }


def of_the_service(it: Prepared) -> dict[str, Operation]:
    invitations, keys, webhooks = it.services.invitations, it.services.keys, it.services.webhooks

    async def revoke_key(context: RequestContext) -> None:
        await begin_write(context.session)
        await keys.revoke(context, it.kid)
        await it.services.revocations.publish(context, f"kid:{it.kid}")
        await context.session.commit()

    purged = (Session.id, ApiKey.id, AttemptCounter.key, Code.id, OutgoingMail.id)
    return {
        "invite": lambda c: invitations.create(c, LANCELOT["email"], (), DAY),
        "take an invitation back": lambda c: invitations.revoke(c, it.invitation_id),
        "mail an invitation again": lambda c: invitations.resend(c, it.invitation_id, None),
        "mail a reset again": lambda c: it.services.password_resets.resend(c, it.lancelot.id, None),
        "revoke a key": revoke_key,
        "disable a webhook": lambda c: webhooks.update(c, it.webhook_id, is_enabled=False),
        "delete a webhook": lambda c: webhooks.delete(c, it.webhook_id),
        "send dead letters again": lambda c: webhooks.retry(c, it.webhook_id),
        "after a restore": lambda c: revoke_everything(it.services, c),
        **{f"purge {key.class_.__tablename__}": purge(key) for key in purged},
    }


def of_workers(it: Prepared) -> dict[str, Operation]:
    """Each sends one row, and does not catch the error of a deadlock as it does in production."""
    mail_worker = MailWorker(it.database, it.settings, it.services.events, Clock())
    sender, events = it.services.webhook_sender, it.services.events
    webhook_worker = WebhookWorker(it.database, sender, events, Clock())

    def send(mail_id: int) -> Operation:
        async def claim_and_send(context: RequestContext) -> None:
            if mail := await mail_worker.claim(context.session, mail_id):
                async with it.database.session() as session:
                    if mail.code_id:
                        await mail_worker.delivery.deliver(session, mail, asyncio.Event())
                    else:
                        await mail_worker._expand(session, mail)

        return claim_and_send

    async def send_webhook(context: RequestContext) -> None:
        if delivery := await webhook_worker.claim(context.session, it.delivery_id):
            async with it.database.session() as session:
                await webhook_worker._deliver(session, delivery, asyncio.Event())

    mails = {f"send mail to {purpose}": send(mail_id) for purpose, mail_id in it.mail_ids.items()}
    return {**mails, "send a webhook": send_webhook}


def purge(key: InstrumentedAttribute[Any]) -> Operation:
    """Delete one batch, of all rows."""

    async def delete(context: RequestContext) -> None:
        commits = count()

        async def commit() -> None:
            await context.session.rollback()
            if next(commits):  # the first one ends the reading transaction
                raise BatchDeletedError

        context.session.commit = commit  # type: ignore[method-assign] # rolls back
        with suppress(BatchDeletedError):
            await retention._delete(context.session, key, true())

    return delete


@on_postgresql
async def test_no_two_transactions_wait_for_each_other(
    app: FastAPI,
    settings: Settings,
    context: RequestContext,
    clock: Clock,
    lancelot: EnrolledUser,
) -> None:
    await app.state.jobs.stop()
    async with interleaver(settings, clock) as pair:
        it = await prepare(app.state.services, settings, context, lancelot, pair.database)

        def transaction(operation: Operation) -> Transaction:
            async def run() -> None:
                async with pair.database.session() as session:
                    caller = RequestContext(session, clock(), ELSEWHERE, user_id=lancelot.id)
                    try:
                        await operation(caller)
                    except UnavailableError:  # such as that of a deadlock
                        raise
                    except ApiError:
                        pass

            return run

        operations = (
            of_accounts(it)
            | of_credentials(it)
            | of_api_keys(it)
            | of_groups(it)
            | of_the_service(it)
            | of_workers(it)
        )
        named = {name: transaction(operation) for name, operation in operations.items()}
        steps = {name: await pair.alone(one) for name, one in named.items()}
        names = sorted(named, key=lambda name: steps[name].number)  # short ones have fewer stops
        mails = [name for name in names if name.startswith("send mail")]
        found = []
        for first, second in permutations(names, 2):
            was_tried = names.index(first) > names.index(second)  # in the other order
            stops = steps[first].stops_for(steps[second], in_one_statement=was_tried)
            for in_transaction in [[1]] if (first, second) in OF_ONE_TABLE else stops:
                if deadlock := await pair.find_deadlock(
                    named[first], named[second], in_transaction
                ):
                    found.append((first, second, deadlock))
                    break
        assert found == []
        assert len(it.mail_ids) == 4
        assert all(steps[name].number > 5 for name in mails)
