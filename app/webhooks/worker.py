"""Sends what is queued for the endpoints. Every worker runs this job (database/outbox.py).

The number of simultaneous requests is limited for each endpoint, so that a slow one does not delay
others. An endpoint does not get messages in the order of the events.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.background_jobs import StoppedError, finish_or_stop
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.outbox import POLL_SECONDS, OutboxWorker
from app.events import Events
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.outbox import give_up_all
from app.webhooks.sender import Result, WebhookSender

MAX_PER_ENDPOINT = 2  # requests at the same time, in each worker
CLAIM_PERIOD = timedelta(minutes=1)
STOP_SECONDS = 5.0  # how long a stopping process waits for responses
# The delay before each further try, with up to a tenth more: about a day in total.
DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800)
)
JITTER = 0.1
# An endpoint that has only failed for so long is disabled.
FAILING_PERIOD = timedelta(days=3)
GONE, FAILING = "gone", "failing"

_NOT_IN_SESSION = {"synchronize_session": False}

_log = logging.getLogger("hourpass.webhooks")


class WebhookWorker(OutboxWorker[WebhookDelivery]):
    name: ClassVar = "webhooks"  # for metrics

    def __init__(
        self,
        database: Database,
        sender: WebhookSender,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        failures = FailureLog(_log, "Cannot send webhooks")
        super().__init__(database, WebhookDelivery, CLAIM_PERIOD, failures)
        self._sender = sender
        self._events = events
        self._clock = clock
        self._in_progress: Counter[int] = Counter()  # deliveries, by endpoint

    async def run_once(self, stopping: asyncio.Event) -> int:
        """Returns the number of deliveries that it claimed, plus those that ended."""
        claimed = 0
        async with self._database.session() as session:
            endpoints = select(WebhookEndpoint.id).where(WebhookEndpoint.is_enabled)
            for endpoint_id in (await session.scalars(endpoints)).all():
                claimed += await self._start_due(session, endpoint_id, stopping)
        if not self._sending:
            return claimed
        done, _ = await asyncio.wait(
            self._sending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return claimed + len(done)

    async def _start_due(
        self, session: AsyncSession, endpoint_id: int, stopping: asyncio.Event
    ) -> int:
        free = MAX_PER_ENDPOINT - self._in_progress[endpoint_id]
        if not free or stopping.is_set():
            return 0
        now = await current_time(session)
        due = (
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.endpoint_id == endpoint_id,
                WebhookDelivery.due_at <= now,
                WebhookDelivery.given_up_at.is_(None),
            )
            .order_by(WebhookDelivery.due_at)
        )
        claimed = 0
        for delivery_id in (await session.scalars(due.limit(free))).all():
            if delivery := await self.claim(session, delivery_id):
                claimed += 1
                self._in_progress[endpoint_id] += 1
                self.start(delivery, stopping)
        return claimed

    async def process(self, delivery: WebhookDelivery, stopping: asyncio.Event) -> None:
        try:
            async with self._database.session() as session:
                await self._deliver(session, delivery, stopping)
        except Exception as error:  # noqa: BLE001 - one that fails must not stop the others
            problem = {"delivery": delivery.id, "error": type(error).__name__}
            _log.warning("Cannot send a webhook, will retry", extra=problem, exc_info=True)
            with suppress(Exception):  # otherwise it is due when the claim ends
                async with self._database.session() as session:
                    await _postpone(session, delivery)
        finally:
            self._in_progress[delivery.endpoint_id] -= 1

    async def _deliver(
        self, session: AsyncSession, delivery: WebhookDelivery, stopping: asyncio.Event
    ) -> None:
        endpoint = await session.get(WebhookEndpoint, delivery.endpoint_id)
        await session.commit()  # the connection returns to the pool during the request
        if endpoint is None or not endpoint.is_enabled or delivery.given_up_at:
            return  # deleted or disabled a moment ago
        sending = self._sender.send(endpoint, delivery, self._clock())
        try:
            result = await finish_or_stop(sending, stopping, STOP_SECONDS)
        except StoppedError:
            await _postpone(session, delivery)
            return
        await begin_write(session)
        # Locked before the delivery, in the order of the operations that disable or delete it.
        endpoint = await session.get(
            WebhookEndpoint, delivery.endpoint_id, populate_existing=True, with_for_update=True
        )
        if result.is_delivered:
            await session.execute(delete(WebhookDelivery).where(_is(delivery)))
            if endpoint:
                endpoint.failing_since = None
        elif endpoint:
            await self._record_failure(session, endpoint, delivery, result)
        await session.commit()

    async def _record_failure(
        self,
        session: AsyncSession,
        endpoint: WebhookEndpoint,
        delivery: WebhookDelivery,
        result: Result,
    ) -> None:
        now = await current_time(session)
        is_last = delivery.attempts > len(DELAYS)
        last = {"last_status": result.status, "last_error": result.reason}
        if is_last:
            await _update(session, delivery, given_up_at=now, **last)
        else:
            await _update(session, delivery, due_at=now + _delay(delivery.attempts), **last)
        extra = {"webhook": endpoint.id, "delivery": delivery.id, **result._asdict()}
        if is_last:
            _log.warning("Webhook message given up", extra=extra)
        else:
            _log.info("Cannot send a webhook message, will retry", extra=extra)
        endpoint.failing_since = endpoint.failing_since or now
        if result.status == 410:
            await self._disable(session, endpoint, GONE, now)
        elif endpoint.failing_since <= now - FAILING_PERIOD:
            await self._disable(session, endpoint, FAILING, now)

    async def _disable(
        self, session: AsyncSession, endpoint: WebhookEndpoint, reason: str, now: datetime
    ) -> None:
        if not endpoint.is_enabled:
            return
        endpoint.is_enabled, endpoint.disabled_reason = False, reason
        await give_up_all(session, endpoint.id, now)
        context = RequestContext(session, self._clock())
        await self._events.publish(
            context, "webhook.disable", None, webhook=str(endpoint.id), reason=reason
        )
        _log.error("Webhook disabled", extra={"webhook": endpoint.id, "reason": reason})


def _delay(attempts: int) -> timedelta:
    """The delay after that many tries. With jitter, so that messages that failed together are not
    sent together again."""
    return DELAYS[attempts - 1] * (1 + JITTER * random.random())  # noqa: S311 - no secret


def _is(delivery: WebhookDelivery) -> ColumnElement[bool]:
    return WebhookDelivery.id == delivery.id


async def _update(session: AsyncSession, delivery: WebhookDelivery, **values: object) -> None:
    statement = update(WebhookDelivery).where(_is(delivery)).values(**values)
    await session.execute(statement, execution_options=_NOT_IN_SESSION)


async def _postpone(session: AsyncSession, delivery: WebhookDelivery) -> None:
    """Try again soon. This try does not count, because its failure is not the receiver's fault."""
    now = await current_time(session)
    await begin_write(session)
    await _update(session, delivery, due_at=now + DELAYS[0], attempts=delivery.attempts - 1)
    await session.commit()
