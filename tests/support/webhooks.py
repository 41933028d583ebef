"""Webhooks over HTTP, and what receivers do with a message."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from httpx import AsyncClient, Response
from standardwebhooks.webhooks import Webhook

from app.webhooks.worker import WebhookWorker
from tests.support.https_receiver import Receiver, Request
from tests.support.users import ARTHUR, bearer, log_in


@dataclass
class WebhookCalls:
    """Arthur's calls. He logs in again when his token has expired: tests move the clock by days."""

    client: AsyncClient
    token: str = ""

    async def call(self, method: str, path: str = "", status: int = 200, **body: Any) -> Any:
        response = await self._send(method, path, body)
        if response.status_code == 401:
            self.token = await log_in(self.client, ARTHUR)
            response = await self._send(method, path, body)
        assert response.status_code == status, response.text
        return response.json()

    async def _send(self, method: str, path: str, body: dict[str, Any]) -> Response:
        return await self.client.request(
            method,
            f"/webhooks{path}",
            headers=bearer(self.token),
            json=body if method in ("POST", "PATCH") else None,
        )

    async def create(self, receiver: Receiver, *types: str) -> Any:
        return await self.call("POST", status=201, url=receiver.url, types=list(types))

    async def deliveries(self, webhook_id: int, state: str = "") -> list[dict[str, Any]]:
        query = f"?state={state}" if state else ""
        page = await self.call("GET", f"/{webhook_id}/deliveries{query}")
        found: list[dict[str, Any]] = page["deliveries"]
        return found


def webhook_worker(app: FastAPI) -> WebhookWorker:
    state = app.state
    services = state.services
    return WebhookWorker(state.database, services.webhook_sender, services.events, state.clock)


async def send_due(app: FastAPI, worker: WebhookWorker | None = None) -> None:
    """Send all that is due: as a process of its own, or by this worker."""
    worker = worker or webhook_worker(app)
    while await worker.run_once(asyncio.Event()) or worker._sending:
        pass


def verified(request: Request, secret: str) -> dict[str, Any]:
    """The message, after the receiver's library has verified it at the time of the message."""
    library = Webhook(secret)
    headers = request.headers
    moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signature = library.sign(headers["webhook-id"], moment, request.body.decode())
    assert signature in headers["webhook-signature"].split(" ")
    message: dict[str, Any] = json.loads(request.body)
    return message


def types(receiver: Receiver) -> list[str]:
    """Of all messages that were received, whatever their order."""
    return sorted(json.loads(request.body)["type"] for request in receiver.requests)
