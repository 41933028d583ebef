"""No two transactions that lock the same rows end in a deadlock: what belongs to a user is locked
after the user, a code before its mail, counters before the revocation feed, several rows in the
order of their ids. A deadlock would be a 500 or 503 after a second.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count, permutations
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy import select, true, update
from sqlalchemy.orm import InstrumentedAttribute

from app.cli.restore import revoke_everything
from app.context import RequestContext
from app.credentials.second_factors.service import HAS_SECOND_FACTOR
from app.credentials.sessions.models import Session
from app.database.engine import Database, begin_write
from app.errors import ApiError
from app.mail import worker
from app.mail.models import OutgoingMail
from app.mail.service import enqueue
from app.mail.worker import MailWorker
from app.retention import service as retention
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.one_time_codes.text import parse_code
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.service import clear, enforce_limit
from app.services import Services
from app.settings import Settings
from app.users.login_account import find_login_account
from app.users.models import User
from app.users.schemas import NewUser
from tests.support.authenticator import EnrolledUser, register_enrolled
from tests.support.interleaved import Transaction, interleaver
from tests.support.mail_server import stop_background_worker
from tests.support.markers import on_postgresql
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT

ELSEWHERE = "192.0.2.7"
NEW_PASSWORD = "a password that is new"  # noqa: S105 - an example
DAY = timedelta(days=1)

Operation = Callable[[RequestContext], Awaitable[object]]

# Pairs that lock several rows of one table, the first one with a statement for each.
OF_ONE_TABLE = {
    ("lock two users", "after a restore"),
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

    stop_background_worker(monkeypatch)
    monkeypatch.setattr(worker, "send", send)
    mail = {"smtp_url": "smtp://mail.camelot.example", "mail_from": "no-reply@camelot.example"}
    return Settings.model_validate({**settings.model_dump(), **mail})


@pytest.fixture
async def lancelot(client: AsyncClient, clock: Clock) -> EnrolledUser:
    """With a second factor, a session, and a letter that waits."""
    return await register_enrolled(client, LANCELOT, clock)


async def operations(
    services: Services,
    settings: Settings,
    context: RequestContext,
    lancelot: EnrolledUser,
    others: Database,
) -> dict[str, Operation]:
    """All that lock rows of several tables, or several rows of one table."""
    user_id, email = lancelot.id, LANCELOT["email"]
    _, invitation = await services.invitations.create(context, GALAHAD["email"], (), DAY)
    written = {}
    await begin_write(context.session)
    for purpose in (Purpose.RESET, Purpose.VERIFY):
        code, text = await codes.issue(context, purpose, user_id=user_id, email=email)
        await enqueue(context, email, code)
        written[purpose] = parse_code(text)
    await context.session.commit()
    session_id = await context.session.scalar(select(Session.id))
    invitation_id = await context.session.scalar(select(Code.id).where(Code.user_id.is_(None)))
    kid = (await services.keys.load(context)).keys[0].kid
    account = await find_login_account(context, LANCELOT["username"], HAS_SECOND_FACTOR)
    assert session_id
    assert invitation_id
    assert account
    newcomer = NewUser.model_validate(GALAHAD)
    password, wrong_password = LANCELOT["password"], "the wrong one"
    otp = SecretStr(lancelot.authenticator.code())
    recovery_code = SecretStr(parse_code(lancelot.authenticator.recovery_codes[0]))
    stolen = lancelot.refresh_token[:-64] + 64 * "0"
    users, factors, sessions = services.users, services.second_factors, services.sessions
    resets, invitations = services.password_resets, services.invitations
    mail_worker = MailWorker(others, settings, services.events, lambda: context.now)

    async def clear_counters(context: RequestContext) -> None:
        await begin_write(context.session)
        await clear(context.session, LANCELOT["username"], ELSEWHERE, all_accounts=True)
        await context.session.commit()

    async def revoke_token(context: RequestContext) -> None:
        await begin_write(context.session)
        limit = services.login_limiter.actions
        await enforce_limit(context.session, "revocation", str(user_id), limit)
        await services.revocations.publish(context, "jti:x")
        await context.session.commit()

    async def revoke_key(context: RequestContext) -> None:
        await begin_write(context.session)
        await services.keys.revoke(context, kid)
        await services.revocations.publish(context, f"kid:{kid}")
        await context.session.commit()

    async def lock_users(context: RequestContext) -> None:
        """In two statements, as one that locks several administrators may get them."""
        await begin_write(context.session)
        for id_ in (1, user_id):
            await users.lock(context, id_)
        await context.session.commit()

    async def confirm_mailbox(context: RequestContext) -> None:
        await users.verify_email(context, user_id, written[Purpose.VERIFY])

    def delete_batch(key: InstrumentedAttribute[Any]) -> Operation:
        async def delete(context: RequestContext) -> None:
            commits = count()

            async def commit() -> None:
                await context.session.rollback()
                if next(commits):  # the first one ends the reading transaction
                    raise BatchDeletedError

            context.session.commit = commit  # type: ignore[method-assign]
            with suppress(BatchDeletedError):
                await retention._delete(context.session, key, true())

        return delete

    return {
        "send mail": lambda _: mail_worker.run_once(asyncio.Event()),
        "change the password": lambda c: users.change_password(c, user_id, NEW_PASSWORD),
        "disable": lambda c: users.set_enabled(c, user_id, enabled=False),
        "change the address": lambda c: users.change(c, user_id, email=GALAHAD["email"]),
        "verify the address": confirm_mailbox,
        "ask for a code": lambda c: services.mail.request_verification(c, user_id),
        "ask for a reset": lambda c: resets.request(c, email),
        "reset the password": lambda c: resets.confirm(c, written[Purpose.RESET], NEW_PASSWORD),
        "force a reset": lambda c: resets.force(c, user_id, by_mail=True),
        "remove": lambda c: users.remove(c, user_id),
        "log out everywhere": lambda c: users.revoke_tokens(c, user_id),
        "open a session": lambda c: sessions.create(c, account, ""),
        "refresh a session": lambda c: sessions.refresh(c, lancelot.refresh_token),
        "refresh with a used token": lambda c: sessions.refresh(c, stolen),
        "revoke a session": lambda c: sessions.revoke(c, user_id, session_id),
        "revoke a token": revoke_token,
        "fail to log in": lambda c: factors.remove(c, user_id, wrong_password, otp),
        "enroll anew": lambda c: factors.enroll(c, user_id, password),
        "remove the factor": lambda c: factors.remove(c, user_id, password, recovery_code),
        "renew codes": lambda c: factors.renew_recovery_codes(c, user_id, password, otp),
        "reset the factor": lambda c: factors.reset(c, user_id),
        "unlock": clear_counters,
        "invite": lambda c: invitations.create(c, email, (), DAY),
        "take an invitation back": lambda c: invitations.revoke(c, invitation_id),
        "register": lambda c: users.register(c, newcomer, is_counted=True),
        "register by invitation": lambda c: users.register(
            c, newcomer, invitation=parse_code(invitation)
        ),
        "revoke a key": revoke_key,
        "after a restore": lambda c: revoke_everything(services, c),
        "lock two users": lock_users,
        **{
            f"purge {key.class_.__tablename__}": delete_batch(key)
            for key in (
                Session.id,
                AttemptCounter.key,
                Code.id,
                OutgoingMail.id,
            )
        },
    }


@on_postgresql
async def test_no_two_transactions_wait_for_each_other(
    app: FastAPI,
    settings: Settings,
    context: RequestContext,
    clock: Clock,
    lancelot: EnrolledUser,
) -> None:
    services: Services = app.state.services
    await begin_write(context.session)
    # Moves the row behind Lancelot's: without an order, the database reads them as they lie.
    await context.session.execute(update(User).where(User.id == 1).values(scopes="move"))
    await context.session.commit()
    async with interleaver(settings, clock) as pair:

        def transaction(operation: Operation) -> Transaction:
            async def run() -> None:
                async with pair.database.session() as session:
                    caller = RequestContext(session, clock(), ELSEWHERE, user_id=lancelot.id)
                    with suppress(ApiError):
                        await operation(caller)

            return run

        named = {
            name: transaction(operation)
            for name, operation in (
                await operations(services, settings, context, lancelot, pair.database)
            ).items()
        }
        steps = {name: await pair.alone(one) for name, one in named.items()}
        problems, number = [], 0
        import time
        t=time.time()
        for first, second in permutations(named, 2):
            stops = steps[first].stops_for(steps[second])
            if (first, second) in OF_ONE_TABLE:
                stops = [1]
            for stop in stops:
                number += 1
                print(first, "|", second, stop)
                try:
                    if await pair.together(named[first], named[second], stop):
                        break  # and so it would later
                except ExceptionGroup as errors:
                    problems.append((first, second, stop, repr(errors.exceptions)))
                    break
        print(number, time.time()-t)
        assert problems == []
