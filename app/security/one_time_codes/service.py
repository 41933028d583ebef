"""Issues and uses one-time codes. Every function is part of the caller's transaction.

Lifetimes follow SP 800-63B-4, 4.2.2: at most a day for a code that is mailed to recover an account.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, select, union_all

from app.context import RequestContext
from app.events import Event
from app.security.one_time_codes import text
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code, EarlierHash

# Per user and purpose; one more replaces the oldest. Twice as many as strangers can request while
# one is valid (MAILBOX_FROM_ELSEWHERE), so that they do not displace the user's own codes.
MAX_OPEN = 10
MAX_EARLIER = 5  # texts of one code that stay valid beside the newest


class MailState(StrEnum):
    QUEUED = "queued"  # for the first try, or for another one
    SENT = "sent"  # the mail server accepted it
    FAILED = "failed"  # and is not tried again


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
    """Returns the row, and the code as it is shown. Only the hash of the code is stored. With
    `email`, the caller queues the mail."""
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
        mail_state=MailState.QUEUED if email else None,
    )
    context.session.add(code)
    await context.session.flush()
    return code, text.format_code(secret)


async def text_to_mail(
    context: RequestContext, code_id: int, known_text: str | None, *, is_first_try: bool
) -> tuple[Code, str]:
    """The code that is about to be mailed, locked, and its text: `known_text`, if that is still the
    newest one, or else a new text. If an earlier one may have been mailed, it stays valid.

    Raises InvalidCodeError if the code was used, revoked or is expired.
    """
    code = await context.session.get(Code, code_id, populate_existing=True, with_for_update=True)
    if code is None or code.expires_at <= context.now:
        raise InvalidCodeError
    if known_text and text.hash_code(text.parse_code(known_text)) == code.code_hash:
        return code, known_text
    if not is_first_try:
        await keep_text(context, code)
    secret = text.generate_code()
    code.code_hash = text.hash_code(secret)
    return code, text.format_code(secret)


async def keep_text(context: RequestContext, code: Code) -> None:
    """Keep the text of a locked code valid until the code is used, although it gets another one.
    Of more than MAX_EARLIER, the oldest becomes invalid."""
    session = context.session
    own = select(EarlierHash.code_hash).where(
        EarlierHash.code_id == code.id, EarlierHash.code_hash != code.code_hash
    )
    surplus = own.order_by(EarlierHash.replaced_at.desc()).offset(MAX_EARLIER - 1)
    await session.execute(delete(EarlierHash).where(EarlierHash.code_hash.in_(surplus)))
    await session.merge(
        EarlierHash(code_hash=code.code_hash, code_id=code.id, replaced_at=context.now)
    )
    await session.flush()


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
    code_hash = text.hash_code(code)
    # Not `or`: PostgreSQL would read the whole table.
    with_text = union_all(
        select(Code.id).where(Code.code_hash == code_hash),
        select(EarlierHash.code_id).where(EarlierHash.code_hash == code_hash),
    )
    return [
        Code.id.in_(with_text),
        Code.purpose.in_(purposes),
        Code.expires_at > now,
    ]
