"""The messages of webhooks: types, bodies and signatures, by the rules of Standard Webhooks 1.0.

A body contains the username, but no e-mail address, IP address or user agent. These are in the
audit log, from which they can be erased.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from app.webhooks.event_types import EventType
from app.webhooks.models import WebhookDelivery

PREFIX = "whsec_"
# The type of the message about each action.
TYPE_OF_ACTION: dict[str, EventType] = {
    "user.register": "user.created",
    "service_account.create": "user.created",
    "user.disable": "user.disabled",
    "user.enable": "user.enabled",
    "user.remove": "user.deleted",
    "user.change_password": "user.password_changed",
    "user.reset_password": "user.password_changed",
    "login": "user.login_from_new_address",
    "second_factor.confirm": "user.second_factor_added",
    "second_factor.remove": "user.second_factor_removed",
    "second_factor.reset": "user.second_factor_removed",
    "key.rotate": "signing_key.rotated",
    "key.revoke": "signing_key.revoked",
}
DETAILS = ("kid",)  # details of events that become members of `data`


def new_message_id() -> str:
    return f"msg_{secrets.token_hex(16)}"


def render(delivery: WebhookDelivery) -> bytes:
    """The body of a message: the same for each try, unless the user is deleted in between."""
    data: dict[str, Any] = from_json(delivery.details)
    if delivery.user_id is not None:
        data = {"user_id": delivery.user_id, "username": delivery.username, **data}
    moment = delivery.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return to_json({"type": delivery.type, "timestamp": moment, "data": data})


def generate_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(
    message_id: str, at: datetime, body: bytes, endpoint_secrets: Iterable[str]
) -> dict[str, str]:
    """The headers of a try at that time, with one signature per secret."""
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_sign(secret, signed) for secret in endpoint_secrets),
    }


def _sign(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
