from typing import Annotated

from fastapi import Depends, Path, Request

from app.database.ids import Id
from app.webhooks.service import Webhooks


async def _webhooks(request: Request) -> Webhooks:
    webhooks: Webhooks = request.app.state.services.webhooks
    return webhooks


WebhooksDep = Annotated[Webhooks, Depends(_webhooks)]
WebhookId = Annotated[Id, Path(description="The webhook's id.", examples=[1])]
