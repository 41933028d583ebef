"""Codes are issued, and used once. Each verb is part of its caller's transaction.

Lifetimes are within SP 800-63B-4, 4.2.2: a day at most for what is mailed to get an account back.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.events import Event
from app.security.one_time_codes import text
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code

MAX_OPEN = 5  # for each user and purpose: a sixth one takes the place of the oldest


class Purpose(StrEnum):
    RESET = "reset"  # a new password, for whoever forgot it
    RENEW = "renew"  # a new password, because an administrator wants one
    VERIFY = "verify"
    INVITE = "invite"


LIFETIMES = {
    Purpose.RESET: timedelta(minutes=30),
    Purpose.RENEW: timedelta(days=1),  # the owner has not asked for it, and may not look at once
    Purpose.VERIFY: timedelta(days=1),
    Purpose.INVITE: timedelta(days=7),
}

# What proves that codes issued before may be in wrong hands, or sent to a mailbox given up.
_VOIDING = {
    "user.change_email",
    "user.change_password",
    "user.disable",
    "user.force_reset",
    "user.reset_password",
}


async def issue(  # noqa: PLR0913 - what the table has
    session: AsyncSession,
    purpose: Purpose,
    now: datetime,
    *,
    user_id: int | None = None,
    email: str | None = None,
    scopes: str = "",
    lifetime: timedelta | None = None,
) -> tuple[Code, str]:
    """The row, and the code as it is shown, which is written down nowhere."""
    if user_id is not None:
        own = select(Code.id).where(Code.user_id == user_id, Code.purpose == purpose)
        surplus = own.order_by(Code.id.desc()).offset(MAX_OPEN - 1)
        await session.execute(delete(Code).where(Code.id.in_(surplus)))
    secret = text.new()
    code = Code(
        purpose=purpose,
        code_hash=text.digest(secret),
        user_id=user_id,
        email=email,
        scopes=scopes,
        created_at=now,
        expires_at=now + (lifetime or LIFETIMES[purpose]),
    )
    session.add(code)
    await session.flush()
    return code, text.shown(secret)


async def redraw(session: AsyncSession, code_id: int, now: datetime) -> tuple[Code, str]:
    """Another secret for a code that is about to be sent. Raises InvalidCodeError."""
    code = await session.get(Code, code_id, populate_existing=True)
    if code is None or code.expires_at <= now:
        raise InvalidCodeError
    secret = text.new()
    code.code_hash = text.digest(secret)
    return code, text.shown(secret)


async def find(session: AsyncSession, code: str, now: datetime, *purposes: Purpose) -> Code:
    """Look without using it up. Raises InvalidCodeError."""
    found = await session.scalar(select(Code).where(*_is_valid(code, now, purposes)))
    if found is None:
        raise InvalidCodeError
    return found


async def use(
    session: AsyncSession,
    code: str,
    now: datetime,
    *purposes: Purpose,
    user_id: int | None = None,
) -> Code:
    """Of any number who try it at once, one succeeds. With `user_id` only that user.

    Raises InvalidCodeError.
    """
    conditions = _is_valid(code, now, purposes)
    if user_id is not None:
        conditions.append(Code.user_id == user_id)
    spent = delete(Code).where(*conditions).returning(Code)
    used = await session.scalar(spent.execution_options(synchronize_session=False))
    if used is None:
        raise InvalidCodeError
    return used


async def void(session: AsyncSession, event: Event) -> None:
    """A listener."""
    own = delete(Code).where(Code.user_id == event.subject_id)
    if event.action in _VOIDING and event.succeeded:
        await session.execute(own)
    elif event.action == "user.verify_email":
        # Nothing is left to verify, so a code that waits in the outbox is not sent.
        await session.execute(own.where(Code.purpose == Purpose.VERIFY))


def _is_valid(code: str, now: datetime, purposes: Collection[Purpose]) -> list[ColumnElement[bool]]:
    return [
        Code.code_hash == text.digest(code),
        Code.purpose.in_(purposes),
        Code.expires_at > now,
    ]
