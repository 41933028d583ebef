from typing import Annotated

from fastapi import Depends, Request

from app.accounts.service_accounts.service import ServiceAccounts


async def _service_accounts(request: Request) -> ServiceAccounts:
    service_accounts: ServiceAccounts = request.app.state.services.service_accounts
    return service_accounts


ServiceAccountsDep = Annotated[ServiceAccounts, Depends(_service_accounts)]
