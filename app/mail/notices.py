"""Tells users by mail what happened to their account. A notice has no code and needs no reply."""

import hashlib
from datetime import datetime
from typing import NamedTuple

from pydantic_core import from_json, to_json
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.events import Event
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD, add, is_outbox_full
from app.users.models import User

# The template of each action, if the user did it, and if an administrator did.
TEMPLATES = {
    "api_key.create": ("api_key_created", "api_key_by_administrator"),
    "api_key.rotate": ("api_key_rotated", "api_key_by_administrator"),
    "user.change_email": ("email_changed", "email_changed_by_administrator"),
    "user.change_password": ("password_changed", "password_changed_by_administrator"),
    "user.reset_password": ("password_changed", "password_changed_by_administrator"),
}
# These go to the former address, even if the account has changed again since.
_TO_FORMER_ADDRESS = TEMPLATES["user.change_email"]


class OutdatedNoticeError(Exception):
    """The user is deleted, or has another address since."""


class MailContent(NamedTuple):
    """What a mail says, and until when that is useful. `details` are for the audit log."""

    template: str
    values: dict[str, str]
    message_id: str
    useful_until: datetime
    user_id: int | None
    details: dict[str, str]


async def send_notice(context: RequestContext, event: Event) -> None:
    """A subscriber. Only to a verified address: a stranger may have registered with another one,
    and chosen the name of the key as advertising. If too much mail is waiting, it sends nothing."""
    if not event.succeeded or await is_outbox_full(context):
        return
    user = await context.session.get(User, event.subject_id)
    if user is None:
        return
    by_user, by_administrator = TEMPLATES[event.action]
    is_own = context.user_id == user.id
    notice = by_user if is_own else by_administrator
    email = user.email if user.email_verified else None
    if notice in _TO_FORMER_ADDRESS:
        email = event.personal.get("former_email")
    if email is None:
        return
    details: dict[str, str] = {}
    if "name" in event.details:
        details["key_name"] = event.details["name"]
    if is_own:  # users do not learn the IP addresses of administrators
        details["address"] = context.ip_address
    await add(context, email, user_id=user.id, notice=notice, details=to_json(details).decode())


async def compose_notice(session: AsyncSession, mail: OutgoingMail) -> MailContent:
    """Raises OutdatedNoticeError."""
    assert mail.notice
    assert mail.details
    user = await session.get(User, mail.user_id, populate_existing=True)
    has_address = user and user.email == mail.email and user.email_verified
    if user is None or not (has_address or mail.notice in _TO_FORMER_ADDRESS):
        raise OutdatedNoticeError
    time = f"{mail.created_at:%Y-%m-%d %H:%M} UTC"
    values = {**from_json(mail.details), "account": user.username, "time": time}
    # The same for each try.
    message_id = hashlib.sha256(f"notice {mail.id} {mail.created_at}".encode()).hexdigest()[:32]
    return MailContent(
        mail.notice, values, message_id, mail.created_at + RETRY_PERIOD, user.id, details={}
    )
