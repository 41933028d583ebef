"""What the core announces. Listeners take part in the transaction that does the deed, so that none
is done without its trace; whoever announces one knows no listener.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Caller, caller_of
from app.http.access_log import request_id


@dataclass(frozen=True, slots=True)
class Event:
    """`subject_id` is the user to whom it was done, if there is one. `details` are never a secret,
    and nothing that a stranger typed."""

    action: str
    subject_id: int | None
    at: datetime
    succeeded: bool
    details: Mapping[str, str]
    caller: Caller
    request_id: str | None


Listener = Callable[[AsyncSession, Event], Awaitable[None]]


class Events:
    def __init__(
        self,
        session: AsyncSession,
        caller: Caller,
        listeners: Sequence[Listener],
        of_request: str | None = None,
    ) -> None:
        """`of_request` is the id of one that has been answered already."""
        self._session = session
        self._caller = caller
        self._listeners = listeners
        self._of_request = of_request

    async def announce(
        self,
        action: str,
        subject_id: int | None,
        at: datetime,
        *,
        succeeded: bool = True,
        **details: str,
    ) -> None:
        """Part of its caller's transaction."""
        request = self._of_request or request_id.get()
        event = Event(action, subject_id, at, succeeded, details, self._caller, request)
        for listener in self._listeners:
            await listener(self._session, event)


def events_of(request: Request, session: AsyncSession) -> Events:
    return Events(session, caller_of(request), request.app.state.listeners)
