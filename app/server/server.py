"""A uvicorn server that answers the requests in progress before it stops."""

import socket
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.server.connections import Connections
from app.server.systemd import Notifier


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, notifier: Notifier | None = None) -> None:
        """With several workers, the supervisor has the notifier."""
        super().__init__(config)
        self._notifier = notifier

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._notifier:
            self._notifier.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests that were sent. The protocol closes each connection after its next
        answer, or when it stays idle."""
        if self._notifier:
            self._notifier.stopping()
        connections: Connections = cast("FastAPI", self.config.loaded_app).state.connections
        connections.stop()  # also for connections that are accepted and have no protocol yet
        await super().shutdown(sockets)
