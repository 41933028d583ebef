"""Operations on webhooks. Each is a transaction of its own."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import delete, func, select, update

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.fast_queries import current_time
from app.database.locks import lock_tables
from app.database.timelines import require_unused_ids
from app.errors import InvalidRequestError
from app.events import Events
from app.security.rate_limits.limits import WEBHOOK_TEST
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.webhooks import messages
from app.webhooks.encryption import encryptor_for
from app.webhooks.errors import (
    MAX_ENDPOINTS,
    WebhookDisabledError,
    WebhookLimitError,
    WebhookNotFoundError,
)
from app.webhooks.event_types import TEST, TYPES
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.outbox import give_up_all, locked
from app.webhooks.sender import Result, WebhookSender

OVERLAP = timedelta(days=1)  # by default


class EndpointWithSecret(NamedTuple):
    endpoint: WebhookEndpoint
    secret: str


class Webhooks:
    def __init__(self, sender: WebhookSender, events: Events, settings: Settings) -> None:
        self._sender = sender
        self._events = events
        self._encryptor = encryptor_for(settings)

    async def create(
        self, context: RequestContext, url: str, types: Collection[str] = ()
    ) -> EndpointWithSecret:
        """Create an enabled endpoint, which gets messages of these types. By default, it gets all.

        Raises WebhookLimitError and InvalidRequestError.
        """
        self._check_url(url)
        secret = messages.generate_secret()
        await begin_write(context.session)
        await require_unused_ids(context.session)
        await lock_tables(context.session, WebhookEndpoint)  # nobody adds one after the count
        number = await context.session.scalar(select(func.count()).select_from(WebhookEndpoint))
        if number is not None and number >= MAX_ENDPOINTS:
            raise WebhookLimitError
        endpoint = WebhookEndpoint(
            url=url,
            types=_join(types),
            secret=self._encryptor.encrypt(secret),
            is_enabled=True,
            created_at=context.now,
        )
        context.session.add(endpoint)
        await context.session.flush()
        await self._publish(context, "webhook.create", endpoint, host=_host(url))
        await context.session.commit()
        return EndpointWithSecret(endpoint, secret)

    async def list(self, context: RequestContext) -> Sequence[WebhookEndpoint]:
        """All of them, in the order of their ids."""
        query = select(WebhookEndpoint).order_by(WebhookEndpoint.id)
        return (await context.session.scalars(query)).all()

    async def get(self, context: RequestContext, webhook_id: int) -> WebhookEndpoint:
        """Raises WebhookNotFoundError."""
        if endpoint := await context.session.get(WebhookEndpoint, webhook_id):
            return endpoint
        raise WebhookNotFoundError

    async def update(
        self,
        context: RequestContext,
        webhook_id: int,
        *,
        url: str | None = None,
        types: Collection[str] | None = None,
        is_enabled: bool | None = None,
    ) -> WebhookEndpoint:
        """Change an endpoint. If it is disabled, its waiting messages become dead letters.

        Raises WebhookNotFoundError and InvalidRequestError.
        """
        if url is not None:
            self._check_url(url)
        endpoint = await self._lock(context, webhook_id)
        details: dict[str, str] = {}
        if url is not None and url != endpoint.url:
            endpoint.url = url
            details["host"] = _host(url)
        if types is not None and _join(types) != endpoint.types:
            endpoint.types = _join(types)
            details["types"] = endpoint.types or "all"
        if is_enabled is not None and is_enabled != endpoint.is_enabled:
            endpoint.is_enabled = is_enabled
            endpoint.disabled_reason = endpoint.failing_since = None
            details["enabled"] = "true" if is_enabled else "false"
            if not is_enabled:
                now = await current_time(context.session)
                await give_up_all(context.session, webhook_id, now)
        if details:
            await self._publish(context, "webhook.update", endpoint, **details)
        await context.session.commit()
        return endpoint

    async def delete(self, context: RequestContext, webhook_id: int) -> None:
        """Delete an endpoint, its waiting messages and its dead letters. Raises
        WebhookNotFoundError."""
        endpoint = await self._lock(context, webhook_id)
        await context.session.execute(
            delete(WebhookDelivery).where(locked(WebhookDelivery.endpoint_id == webhook_id)),
            execution_options={"synchronize_session": False},
        )
        await context.session.delete(endpoint)
        await self._publish(context, "webhook.delete", endpoint, host=_host(endpoint.url))
        await context.session.commit()

    async def rotate_secret(
        self, context: RequestContext, webhook_id: int, overlap: timedelta = OVERLAP
    ) -> EndpointWithSecret:
        """Replace the secret. Until the overlap ends, messages are signed with both. Raises
        WebhookNotFoundError."""
        secret = messages.generate_secret()
        endpoint = await self._lock(context, webhook_id)
        endpoint.previous_secret = endpoint.secret if overlap else None
        endpoint.previous_secret_until = context.now + overlap if overlap else None
        endpoint.secret = self._encryptor.encrypt(secret)
        await self._publish(context, "webhook.rotate_secret", endpoint)
        await context.session.commit()
        return EndpointWithSecret(endpoint, secret)

    async def test(self, context: RequestContext, webhook_id: int) -> Result:
        """Send a message at once, even to a disabled endpoint, and wait for the response. It is not
        queued, and changes nothing.

        Raises WebhookNotFoundError and TooManyAttemptsError.
        """
        endpoint = await self.get(context, webhook_id)
        await begin_write(context.session)
        await enforce_limit(context.session, "webhook test", str(webhook_id), WEBHOOK_TEST)
        await context.session.commit()  # the connection returns to the pool while this waits
        delivery = WebhookDelivery(
            endpoint_id=webhook_id,
            message_id=messages.new_message_id(),
            type=TEST,
            details="{}",
            created_at=context.now,
        )
        return await self._sender.send(endpoint, delivery, context.now)

    async def list_deliveries(
        self,
        context: RequestContext,
        webhook_id: int,
        after_id: int,
        limit: int,
        *,
        is_dead: bool | None = None,
    ) -> Sequence[WebhookDelivery]:
        """At most `limit` deliveries with ids above `after_id`, in the order of their ids. Raises
        WebhookNotFoundError."""
        await self.get(context, webhook_id)
        query = select(WebhookDelivery).where(
            WebhookDelivery.endpoint_id == webhook_id, WebhookDelivery.id > after_id
        )
        if is_dead is not None:
            given_up_at = WebhookDelivery.given_up_at
            query = query.where(given_up_at.is_not(None) if is_dead else given_up_at.is_(None))
        query = query.order_by(WebhookDelivery.id).limit(limit)
        return (await context.session.scalars(query)).all()

    async def retry(
        self, context: RequestContext, webhook_id: int, delivery_id: int | None = None
    ) -> int:
        """Send dead letters of an endpoint again: one, or all. Returns how many.

        Raises WebhookNotFoundError and WebhookDisabledError.
        """
        endpoint = await self._lock(context, webhook_id)
        if not endpoint.is_enabled:
            await context.session.rollback()
            raise WebhookDisabledError
        now = await current_time(context.session)
        conditions = [
            WebhookDelivery.endpoint_id == webhook_id,
            WebhookDelivery.given_up_at.is_not(None),
        ]
        if delivery_id is not None:
            conditions.append(WebhookDelivery.id == delivery_id)
        again = update(WebhookDelivery).where(locked(*conditions))
        again = again.values(given_up_at=None, attempts=0, due_at=now)
        found = await context.session.scalars(
            again.returning(WebhookDelivery.id), execution_options={"synchronize_session": False}
        )
        number = len(found.all())
        if number:
            await self._publish(context, "webhook.retry", endpoint, deliveries=str(number))
        await context.session.commit()
        return number

    def _check_url(self, url: str) -> None:
        """Raises InvalidRequestError."""
        try:
            self._sender.http.check_url(url)
        except ValueError as error:
            problem = str(error)
            message = problem[0].upper() + problem[1:]
            raise InvalidRequestError.for_field("url", message) from None

    async def _lock(self, context: RequestContext, webhook_id: int) -> WebhookEndpoint:
        """Begin to change an endpoint, and lock it: endpoints before deliveries, as everywhere.
        Raises WebhookNotFoundError."""
        await begin_write(context.session)
        endpoint = await context.session.get(
            WebhookEndpoint, webhook_id, populate_existing=True, with_for_update=True
        )
        if endpoint is None:
            await context.session.rollback()
            raise WebhookNotFoundError
        return endpoint

    async def _publish(
        self, context: RequestContext, action: str, endpoint: WebhookEndpoint, **details: str
    ) -> None:
        described: dict[str, Any] = {"webhook": str(endpoint.id), **details}
        await self._events.publish(context, action, None, **described)


def _join(types: Collection[str]) -> str:
    """The column `types`: in a fixed order, and empty for all types."""
    if set(types) >= set(TYPES):
        return ""
    return " ".join(type_ for type_ in TYPES if type_ in types)


def _host(url: str) -> str:
    """For the audit log. The path may contain a secret."""
    return urlsplit(url).netloc[:200]
