from app.errors import ConflictError, NotFoundError

MAX_ENDPOINTS = 10


class WebhookNotFoundError(NotFoundError):
    error = "webhook_not_found"
    message = "Webhook not found"


class WebhookLimitError(ConflictError):
    error = "webhook_limit_reached"
    message = f"There are {MAX_ENDPOINTS} webhooks, which is the maximum"


class WebhookDisabledError(ConflictError):
    error = "webhook_disabled"
    message = "The webhook is disabled. Enable it first"
