"""The context of a request: the database session, the time and the client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.configuration.types import Network
from app.database.engine import SessionDep
from app.ip_addresses import ProxyWarning, client_ip_address

MAX_USER_AGENT = 200
MAX_ACCEPT_LANGUAGE = 100


@dataclass(slots=True)
class RequestContext:
    """The first argument of every operation. Commands of the CLI have one too."""

    session: AsyncSession
    now: datetime
    ip_address: str = ""
    user_agent: str = ""
    accept_language: str = ""  # RFC 9110, 12.5.4; for the language of mail
    request_id: str | None = None
    user_id: int | None = None  # set once a token or a password has been verified


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
