"""Events: operations publish what happened, and subscribers handle it.

Subscribers run in the transaction of the operation, so that no action is committed without its
audit entry. Operations do not know the subscribers.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from app.context import RequestContext


class Event(NamedTuple):
    """`subject_id` is the user whom the action concerns, if any. `details` must not contain secrets
    or texts from unauthenticated clients."""

    action: str
    subject_id: int | None
    succeeded: bool
    details: Mapping[str, str]


class Subscriber(NamedTuple):
    handle: Callable[[RequestContext, Event], Awaitable[None]]
    actions: Collection[str] | None = None  # None: every action


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
        *,
        succeeded: bool = True,
        **details: str,
    ) -> None:
        """Call the subscribers. Part of the caller's transaction."""
        event = Event(action, subject_id, succeeded, details)
        for handle, actions in self.subscribers:
            if actions is None or action in actions:
                await handle(context, event)
