"""Logins as JSON, past the framework, which would cost as much as all the rest of a login but the
hash, and keep those waiting who only validate.

What is done, and how it is answered, is as in the route of auth/router.py, which documents it and
serves forms.
"""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.database.engine import Database
from app.database.fast_queries import yield_to_event_loop
from app.errors import Refusal
from app.http.bodies import JSON, media_type
from app.http.error_responses import render, render_invalid
from app.login import router
from app.login.dependencies import grant_from, login_of

_PATH = "/token"
_ROUTE = next(route for route in router.router.routes if getattr(route, "path", None) == _PATH)


class Express:
    """An ASGI application before another one, which gets all but these logins."""

    def __init__(self, app: FastAPI, others: ASGIApp) -> None:
        self._app = app
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _PATH and scope["method"] == "POST":
            request = Request(scope, receive)
            if media_type(request) == JSON:
                scope.update(app=self._app, route=_ROUTE)
                response = await self._log_in(request)
                await response(scope, receive, send)
                return
        await self._others(scope, receive, send)

    async def _log_in(self, request: Request) -> Response:
        state = self._app.state
        database: Database = state.database
        try:
            grant = await grant_from(request)
            await yield_to_event_loop()
            async with database.session() as session:
                issued = await login_of(request, session).trade(grant, state.clock())
        except Refusal as refusal:
            return render(refusal)
        except RequestValidationError as error:
            return render_invalid(error)
        await yield_to_event_loop()
        body = issued.model_dump_json(exclude_none=True)
        return Response(body, media_type=JSON)
