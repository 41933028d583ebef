"""Checks the webhooks: those that the service disabled, and dead letters."""

from collections.abc import AsyncIterator

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.webhooks.models import WebhookDelivery, WebhookEndpoint

SUBJECT = "webhooks"


async def check(system: System) -> AsyncIterator[Finding]:
    async with system.context() as context:
        async for finding in check_endpoints(context.session):
            yield finding


async def check_endpoints(session: AsyncSession) -> AsyncIterator[Finding]:
    by_id = select(WebhookEndpoint).order_by(WebhookEndpoint.id)
    endpoints = (await session.scalars(by_id)).all()
    has_problem = False
    for endpoint in endpoints:
        if endpoint.disabled_reason:
            has_problem = True
            yield Finding(
                SUBJECT,
                "warning",
                f"The webhook {endpoint.id} was disabled, because it "
                + ("responded with 410" if endpoint.disabled_reason == "gone" else "only failed")
                + f". Enable it with `hourpass webhooks enable {endpoint.id}`, or delete it.",
            )
        elif endpoint.is_enabled and endpoint.failing_since:
            has_problem = True
            since = f"{endpoint.failing_since:%Y-%m-%d %H:%M} UTC"
            yield Finding(
                SUBJECT,
                "warning",
                f"The webhook {endpoint.id} has failed since {since}. Try `hourpass webhooks test "
                f"{endpoint.id}`.",
            )
    dead = select(WebhookDelivery.endpoint_id, func.count())
    dead = dead.where(WebhookDelivery.given_up_at.is_not(None))
    by_endpoint = dead.group_by(WebhookDelivery.endpoint_id).order_by(WebhookDelivery.endpoint_id)
    for endpoint_id, number in await session.execute(by_endpoint):
        has_problem = True
        yield Finding(
            SUBJECT,
            "warning",
            f"The webhook {endpoint_id} has {number} dead letters. Send them again with `hourpass "
            f"webhooks retry {endpoint_id}`.",
        )
    if not has_problem:
        number = len(endpoints)
        yield Finding(SUBJECT, "ok", f"{number} webhooks." if number else "There are none.")
