"""The service, for processes that are forked: imported, and with its routes prepared.

Each of them creates `app.main.app` when uvicorn asks for it, with its own environment.
"""

import asyncio
import gc
from importlib import import_module
from typing import Any

import httpx

from app import main

_IMPORTED_LATER = (
    "app.cli.main",
    "app.cli.serve",
    "app.mail.worker",
    "app.monitoring.metrics.reporter",
    "app.monitoring.metrics.server",
    "app.server.run",
    "hourpass.cli",
    "passlib.handlers.argon2",
    "passlib.handlers.bcrypt",
    "passlib.handlers.django",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
)


async def _prepare_routes() -> None:
    """FastAPI prepares them at the first request, for all apps of the process."""
    transport = httpx.ASGITransport(main.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        (await client.get("/healthz")).raise_for_status()


def _create_app(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    main.app = main.create_app()
    return main.app


for module in _IMPORTED_LATER:
    import_module(module)
asyncio.run(_prepare_routes())
del main.app
vars(main)["__getattr__"] = _create_app
gc.collect()
gc.freeze()  # else each process would copy all of this memory when it collects garbage
