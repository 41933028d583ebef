from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response, status

from app.errors import InvalidRequestError
from app.http.addresses import public_path
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import TokensDep
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin
from app.webhooks.dependencies import WebhookId, WebhooksDep
from app.webhooks.errors import WebhookDisabledError, WebhookLimitError, WebhookNotFoundError
from app.webhooks.schemas import (
    DeliveryPage,
    DeliveryQuery,
    DeliveryRecord,
    NewWebhook,
    Retry,
    RetryResult,
    SecretRotation,
    WebhookChange,
    WebhookList,
    WebhookRecord,
    WebhookRemoved,
    WebhookTestResult,
    WebhookWithSecret,
)

router = APIRouter(tags=["Webhooks"])

_WEBHOOK_ERRORS = (InvalidRequestError, WebhookNotFoundError)


@router.get(
    "/webhooks",
    operation_id="listWebhooks",
    summary="List webhooks",
    response_description="All webhooks.",
    responses=error_docs(*ADMIN_ERRORS),
)
async def list_webhooks(_: CurrentAdmin, webhooks: WebhooksDep, context: ContextDep) -> WebhookList:
    """Without their secrets."""
    found = await webhooks.list(context)
    return WebhookList(webhooks=[WebhookRecord.of(it, context.now) for it in found])


@router.post(
    "/webhooks",
    operation_id="createWebhook",
    summary="Create a webhook",
    response_description="The webhook, with its secret, which is not shown again.",
    status_code=status.HTTP_201_CREATED,
    responses={
        201: {
            "headers": {
                "Location": {
                    "description": "Path of the webhook.",
                    "schema": {"type": "string"},
                    "example": "/webhooks/1",
                }
            }
        },
        **error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, WebhookLimitError),
    },
)
async def create_webhook(
    _: CurrentAdmin,
    body: NewWebhook,
    webhooks: WebhooksDep,
    context: ContextDep,
    tokens: TokensDep,
    response: Response,
) -> WebhookWithSecret:
    """The service sends messages about users and signing keys there, signed by the rules of
    Standard Webhooks. There can be 10 webhooks."""
    found = await webhooks.create(context, body.url, body.types)
    response.headers["Location"] = public_path(tokens.issuer, f"/webhooks/{found.endpoint.id}")
    return WebhookWithSecret.with_secret(found, context.now)


@router.get(
    "/webhooks/{webhook_id}",
    operation_id="readWebhook",
    summary="Get a webhook",
    response_description="The webhook.",
    responses=error_docs(*ADMIN_ERRORS, *_WEBHOOK_ERRORS),
)
async def read_webhook(
    _: CurrentAdmin, webhook_id: WebhookId, webhooks: WebhooksDep, context: ContextDep
) -> WebhookRecord:
    """Without its secret."""
    return WebhookRecord.of(await webhooks.get(context, webhook_id), context.now)


@router.patch(
    "/webhooks/{webhook_id}",
    operation_id="changeWebhook",
    summary="Change, disable or enable a webhook",
    response_description="The webhook after the change.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_WEBHOOK_ERRORS),
)
async def change_webhook(
    _: CurrentAdmin,
    webhook_id: WebhookId,
    change: WebhookChange,
    webhooks: WebhooksDep,
    context: ContextDep,
) -> WebhookRecord:
    """Omitted and null members do not change."""
    endpoint = await webhooks.update(
        context, webhook_id, url=change.url, types=change.types, is_enabled=change.is_enabled
    )
    return WebhookRecord.of(endpoint, context.now)


@router.delete(
    "/webhooks/{webhook_id}",
    operation_id="removeWebhook",
    summary="Delete a webhook",
    response_description="The webhook was deleted.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_WEBHOOK_ERRORS),
)
async def remove_webhook(
    _: CurrentAdmin, webhook_id: WebhookId, webhooks: WebhooksDep, context: ContextDep
) -> WebhookRemoved:
    """Also deletes its waiting messages and its dead letters."""
    await webhooks.delete(context, webhook_id)
    return WebhookRemoved()


@router.post(
    "/webhooks/{webhook_id}/rotate-secret",
    operation_id="rotateWebhookSecret",
    summary="Replace the secret of a webhook",
    response_description="The webhook, with the new secret, which is not shown again.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_WEBHOOK_ERRORS),
)
async def rotate_webhook_secret(
    _: CurrentAdmin,
    webhook_id: WebhookId,
    webhooks: WebhooksDep,
    context: ContextDep,
    rotation: Annotated[SecretRotation, Body(default_factory=SecretRotation)],
) -> WebhookWithSecret:
    """During the overlap, messages are signed with both secrets."""
    overlap = timedelta(seconds=rotation.overlap_seconds)
    found = await webhooks.rotate_secret(context, webhook_id, overlap)
    return WebhookWithSecret.with_secret(found, context.now)


@router.post(
    "/webhooks/{webhook_id}/test",
    operation_id="testWebhook",
    summary="Send a test message",
    response_description="The result.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_WEBHOOK_ERRORS, TooManyAttemptsError),
)
async def send_test_message(
    _: CurrentAdmin, webhook_id: WebhookId, webhooks: WebhooksDep, context: ContextDep
) -> WebhookTestResult:
    """Sends a message of the type `webhook.test` at once, also to a disabled webhook, and waits for
    the response for up to 15 seconds. It is not sent again."""
    result = await webhooks.test(context, webhook_id)
    return WebhookTestResult(is_delivered=result.is_delivered, **result._asdict())


@router.get(
    "/webhooks/{webhook_id}/deliveries",
    operation_id="listWebhookDeliveries",
    summary="List the deliveries of a webhook",
    response_description="A page of deliveries.",
    responses=error_docs(*ADMIN_ERRORS, *_WEBHOOK_ERRORS),
)
async def list_webhook_deliveries(
    _: CurrentAdmin,
    webhook_id: WebhookId,
    webhooks: WebhooksDep,
    query: Annotated[DeliveryQuery, Query()],
    context: ContextDep,
) -> DeliveryPage:
    """Waiting messages, and dead letters: messages that were given up. Delivered messages are not
    listed."""
    page, further = query.paginate(
        await webhooks.list_deliveries(
            context,
            webhook_id,
            query.position or 0,
            query.limit + 1,
            is_dead=None if query.state is None else query.state == "dead",
        )
    )
    return DeliveryPage(deliveries=[DeliveryRecord.of(it) for it in page], next_cursor=further)


@router.post(
    "/webhooks/{webhook_id}/retry",
    operation_id="retryWebhookDeliveries",
    summary="Send dead letters again",
    response_description="How many are sent again.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_WEBHOOK_ERRORS, WebhookDisabledError),
)
async def retry_webhook_deliveries(
    _: CurrentAdmin,
    webhook_id: WebhookId,
    webhooks: WebhooksDep,
    context: ContextDep,
    retry: Annotated[Retry, Body(default_factory=Retry)],
) -> RetryResult:
    """All of them, or the one of `delivery_id`. Each keeps its `webhook-id`."""
    number = await webhooks.retry(context, webhook_id, retry.delivery_id)
    return RetryResult(deliveries=number)
