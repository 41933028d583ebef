"""Applications in this process, without a socket, and their clients."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.main import create_app
from app.settings import Settings


def client_of(app: FastAPI, address: str = "127.0.0.1") -> AsyncClient:
    transport = ASGITransport(app, client=(address, 1))
    return AsyncClient(transport=transport, base_url="http://hourpass.example")


@asynccontextmanager
async def started_client(
    settings: Settings, clock: Callable[[], datetime]
) -> AsyncIterator[AsyncClient]:
    """A client of a service started for these settings, for tests that start it more than once."""
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


def context_in(session: AsyncSession, app: FastAPI) -> RequestContext:
    """For operations that a test calls itself."""
    return RequestContext(session, app.state.clock())
