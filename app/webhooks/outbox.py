"""Queues messages for the endpoints, in the transaction of the operation."""

import logging
from datetime import datetime, timedelta

from pydantic_core import to_json
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.database.fast_queries import current_time
from app.database.locks import locked_in_order
from app.events import Event, Subscriber
from app.users.models import User
from app.webhooks.messages import DETAILS, TYPE_OF_ACTION, new_message_id
from app.webhooks.models import WebhookDelivery, WebhookEndpoint

MAX_WAITING = 10_000  # for each endpoint
MAX_DEAD_LETTERS = 10_000  # for all together
# Longer than messages are tried. Then the service deletes dead letters, and messages that were
# queued for an endpoint at the moment of its deletion.
KEPT_FOR = timedelta(days=14)

_log = logging.getLogger("hourpass.webhooks")


async def enqueue(context: RequestContext, event: Event) -> None:
    """Add a delivery for each enabled endpoint that gets this type of message."""
    if not event.succeeded:
        return
    session, type_ = context.session, TYPE_OF_ACTION[event.action]
    if type_ == "user.deleted":
        await _forget_username(session, event.subject_id)
    endpoints = select(WebhookEndpoint.id, WebhookEndpoint.types).where(WebhookEndpoint.is_enabled)
    endpoint_ids = [
        id_
        for id_, types in await session.execute(endpoints)
        if not types or type_ in types.split()
    ]
    if not endpoint_ids:
        return
    username = None
    if event.subject_id is not None and type_ != "user.deleted":
        user = await session.get(User, event.subject_id)
        username = user.username if user else None
    details = {name: event.details[name] for name in DETAILS if name in event.details}
    message_id, now = new_message_id(), await current_time(session)  # which other hosts compare
    for endpoint_id in endpoint_ids:
        if await has_full_queue(session, endpoint_id):
            _log.warning(
                "Webhook message discarded: too many wait",
                extra={"webhook": endpoint_id, "type": type_},
            )
            continue
        session.add(
            WebhookDelivery(
                endpoint_id=endpoint_id,
                message_id=message_id,
                type=type_,
                user_id=event.subject_id,
                username=username,
                details=to_json(details).decode(),
                attempts=0,
                due_at=now,
                created_at=now,
            )
        )
    await session.flush()


# Most logins come from a known address. They cause no query here.
SUBSCRIBERS = (
    Subscriber(enqueue, TYPE_OF_ACTION.keys() - {"login"}),
    Subscriber(enqueue, {"login"}, detail="new_address"),
)


async def has_full_queue(session: AsyncSession, endpoint_id: int) -> bool:
    waiting = select(WebhookDelivery.id).where(
        WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.given_up_at.is_(None)
    )
    last = waiting.order_by(WebhookDelivery.due_at).offset(MAX_WAITING - 1).limit(1)
    return await session.scalar(last) is not None


async def give_up_all(session: AsyncSession, endpoint_id: int, now: datetime) -> None:
    """Make dead letters of all messages that wait for a locked endpoint. Part of the caller's
    transaction."""
    is_waiting = WebhookDelivery.given_up_at.is_(None)
    await session.execute(
        update(WebhookDelivery)
        .where(locked(WebhookDelivery.endpoint_id == endpoint_id, is_waiting))
        .values(given_up_at=now),
        execution_options={"synchronize_session": False},
    )


def locked(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """A condition for an UPDATE or DELETE of several rows, which it locks in order."""
    ids = select(WebhookDelivery.id).where(*conditions)
    return WebhookDelivery.id.in_(locked_in_order(ids, WebhookDelivery.id))


async def older_dead_letters(session: AsyncSession, kept: int) -> ColumnElement[bool]:
    """A condition for a query: dead letters before the last `kept` ones."""
    is_dead = WebhookDelivery.given_up_at.is_not(None)
    newest_first = select(WebhookDelivery.id).where(is_dead).order_by(WebhookDelivery.id.desc())
    last = await session.scalar(newest_first.offset(kept).limit(1))
    return and_(is_dead, WebhookDelivery.id <= (last or 0))


async def _forget_username(session: AsyncSession, user_id: int | None) -> None:
    """Remove the name of a deleted user from waiting messages and dead letters."""
    await session.execute(
        update(WebhookDelivery)
        .where(locked(WebhookDelivery.user_id == user_id, WebhookDelivery.username.is_not(None)))
        .values(username=None),
        execution_options={"synchronize_session": False},
    )
