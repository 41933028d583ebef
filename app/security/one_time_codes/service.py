"""Issues and uses one-time codes. Every function is part of the caller's transaction.

Lifetimes follow SP 800-63B-4, 4.2.2: at most a day for a code that is mailed to recover an account.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, select

from app.context import RequestContext
from app.events import Event
from app.security.one_time_codes import text
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code

# Per user and purpose; one more replaces the oldest. Twice as many as strangers can request while
# one is valid (MAILBOX_FROM_ELSEWHERE), so that they do not displace the user's own codes.
MAX_OPEN = 10


class Purpose(StrEnum):
    RESET = "reset"  # a new password, because the user forgot it
    ADMIN_RESET = "renew"  # a new password, because an administrator wants one
    VERIFY = "verify"
    INVITE = "invite"


LIFETIMES = {
    Purpose.RESET: timedelta(minutes=30),
    Purpose.ADMIN_RESET: timedelta(days=1),  # the user does not expect the mail
    Purpose.VERIFY: timedelta(days=1),
    Purpose.INVITE: timedelta(days=7),
}

_VERIFIED = "user.verify_email"
# Actions after which earlier codes are invalid: they may be in the wrong hands, or in a mailbox
# that the user no longer has.
INVALIDATING_ACTIONS = {
    "user.change_email",
    "user.change_password",
    "user.disable",
    "user.force_reset",
    "user.reset_password",
    _VERIFIED,
}


async def issue(  # noqa: PLR0913 - one for each column of the table
    context: RequestContext,
    purpose: Purpose,
    *,
    user_id: int | None = None,
    email: str | None = None,
    scopes: str = "",
    lifetime: timedelta | None = None,
) -> tuple[Code, str]:
    """Returns the row, and the code as it is shown. Only the hash of the code is stored."""
    if user_id is not None:
        own = select(Code.id).where(Code.user_id == user_id, Code.purpose == purpose)
        surplus = own.order_by(Code.id.desc()).offset(MAX_OPEN - 1)
        await context.session.execute(delete(Code).where(Code.id.in_(surplus)))
    secret = text.generate_code()
    code = Code(
        purpose=purpose,
        code_hash=text.hash_code(secret),
        user_id=user_id,
        email=email,
        scopes=scopes,
        created_at=context.now,
        expires_at=context.now + (lifetime or LIFETIMES[purpose]),
    )
    context.session.add(code)
    await context.session.flush()
    return code, text.format_code(secret)


async def replace(context: RequestContext, code_id: int) -> tuple[Code, str]:
    """Replace the secret of a code that is about to be sent. Raises InvalidCodeError."""
    code = await context.session.get(Code, code_id, populate_existing=True)
    if code is None or code.expires_at <= context.now:
        raise InvalidCodeError
    secret = text.generate_code()
    code.code_hash = text.hash_code(secret)
    return code, text.format_code(secret)


async def find(context: RequestContext, code: str, *purposes: Purpose) -> Code:
    """Look up a code without using it. Raises InvalidCodeError."""
    found = await context.session.scalar(
        select(Code).where(*_is_valid(code, context.now, purposes))
    )
    if found is None:
        raise InvalidCodeError
    return found


async def use(
    context: RequestContext,
    code: str,
    *purposes: Purpose,
    user_id: int | None = None,
) -> Code:
    """Use a code. Of several simultaneous uses, one succeeds. With `user_id`, the code must belong
    to that user.

    Raises InvalidCodeError.
    """
    conditions = _is_valid(code, context.now, purposes)
    if user_id is not None:
        conditions.append(Code.user_id == user_id)
    statement = delete(Code).where(*conditions).returning(Code)
    used = await context.session.scalar(statement.execution_options(synchronize_session=False))
    if used is None:
        raise InvalidCodeError
    return used


async def invalidate_codes(context: RequestContext, event: Event) -> None:
    """A subscriber."""
    if not event.succeeded:
        return
    invalid = delete(Code).where(Code.user_id == event.subject_id)
    if event.action == _VERIFIED:
        # A verification code that is still in the outbox is then not sent.
        invalid = invalid.where(Code.purpose == Purpose.VERIFY)
    await context.session.execute(invalid)


def _is_valid(code: str, now: datetime, purposes: Collection[Purpose]) -> list[ColumnElement[bool]]:
    return [
        Code.code_hash == text.hash_code(code),
        Code.purpose.in_(purposes),
        Code.expires_at > now,
    ]
