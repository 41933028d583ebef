"""Events: operations publish what happened, and subscribers handle it.

Subscribers run in the transaction of the operation, so that no action is committed without its
audit entry. Operations do not know the subscribers.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from app.context import RequestContext


class Event(NamedTuple):
    """`subject_id` is the user that the action concerns, if any. `details` go to the audit log, so
    they must not contain secrets or texts from unauthenticated clients. `personal` does not."""

    action: str
    subject_id: int | None
    succeeded: bool
    details: Mapping[str, str]
    personal: Mapping[str, str] = MappingProxyType({})


class Subscriber(NamedTuple):
    handle: Callable[[RequestContext, Event], Awaitable[None]]
    actions: Collection[str] | None = None  # None: every action
    detail: str | None = None  # only events with a detail of this name


class Events:
    def __init__(self, subscribers: Sequence[Subscriber] = ()) -> None:
        """Subscribers are called in this order."""
        self.subscribers = tuple(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber, which is called after the others."""
        self.subscribers += (subscriber,)

    async def publish(
        self,
        context: RequestContext,
        action: str,
        subject_id: int | None,
        personal: Mapping[str, str] = MappingProxyType({}),
        /,
        *,
        succeeded: bool = True,
        **details: str,
    ) -> None:
        """Call the subscribers. Part of the caller's transaction."""
        event = Event(action, subject_id, succeeded, details, personal)
        for handle, actions, detail in self.subscribers:
            if (actions is None or action in actions) and (detail is None or detail in details):
                await handle(context, event)
