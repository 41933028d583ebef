"""Sends one message to an endpoint, and returns the result."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from app.outbound_http.client import OutboundHttp
from app.outbound_http.errors import OutboundError
from app.security.encryption import DecryptionError
from app.settings import Settings
from app.webhooks import messages
from app.webhooks.encryption import encryptor_for
from app.webhooks.models import WebhookDelivery, WebhookEndpoint


class Result(NamedTuple):
    """The status of the response, or why there was none."""

    status: int | None
    reason: str | None

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299


class WebhookSender:
    def __init__(self, settings: Settings, http: OutboundHttp | None = None) -> None:
        self.http = http or OutboundHttp(settings.outbound_networks)
        self._encryptor = encryptor_for(settings)

    async def send(
        self, endpoint: WebhookEndpoint, delivery: WebhookDelivery, at: datetime
    ) -> Result:
        """`at` is this host's time, since receivers compare it with theirs."""
        body = messages.render(delivery)
        try:
            secrets = [self._encryptor.decrypt(secret) for secret in _secrets(endpoint, at)]
            headers = messages.headers(delivery.message_id, at, body, secrets)
            response = await self.http.send("POST", endpoint.url, headers=headers, content=body)
        except DecryptionError:  # SECRET_KEY was changed
            return Result(None, "secret")
        except OutboundError as error:
            return Result(None, error.reason)
        return Result(response.status, None)


def _secrets(endpoint: WebhookEndpoint, at: datetime) -> Iterator[str]:
    yield endpoint.secret
    if endpoint.previous_secret and endpoint.has_previous_secret(at):
        yield endpoint.previous_secret
