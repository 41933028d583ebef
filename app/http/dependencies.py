"""What every route may ask for: a database session, and the context of the request.

The command line creates both without FastAPI, whose import takes longer than most commands.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.configuration.types import Network
from app.context import RequestContext
from app.database.engine import Database
from app.ip_addresses import ProxyWarning, client_ip_address

MAX_USER_AGENT = 200
MAX_ACCEPT_LANGUAGE = 100


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.database
    async with database.session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(_session)]


async def _context(request: Request, session: SessionDep) -> RequestContext:
    app_state, state = request.app.state, request.scope["state"]
    clock: Callable[[], datetime] = app_state.clock
    headers = request.headers
    context = RequestContext(
        session,
        clock(),
        _ip_address(request),
        headers.get("user-agent", "")[:MAX_USER_AGENT],
        headers.get("accept-language", "")[:MAX_ACCEPT_LANGUAGE],
        state["request_id"],
    )
    state["context"] = context  # for the access log
    return context


def _ip_address(request: Request) -> str:
    state = request.app.state
    trusted: Sequence[Network] = state.settings.trusted_proxies
    peer = request.client.host if request.client else ""
    # Plain uvicorn replaces the proxy's address with its client's, and sets the port to 0.
    if request.client is None or request.client.port != 0:
        proxy_warning: ProxyWarning = state.proxy_warning
        proxy_warning.check(peer, request.headers, trusted)
    return client_ip_address(peer, request.headers.getlist("x-forwarded-for"), trusted)


ContextDep = Annotated[RequestContext, Depends(_context)]
