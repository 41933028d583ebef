"""Counts events, among them logins. A subscriber, so no operation knows of it."""

from collections import Counter

from app.context import RequestContext
from app.credentials.second_factors.code_checks import LoginResult
from app.events import Event, Subscriber

_BY_REASON = {
    LoginResult.WRONG_CODE.value: "wrong_code",
    LoginResult.TOO_MANY_CODES.value: "too_many_codes",
}
_RESULTS = ("accepted", "refused", "code_required", *_BY_REASON.values())
_CODE_REQUIRED = "second_factor.required"


class EventCounts:
    def __init__(self) -> None:
        self.events: Counter[tuple[str, bool]] = Counter()  # by action and success
        self.logins = Counter(dict.fromkeys(_RESULTS, 0))  # by result
        self.subscriber = Subscriber(self._count)

    async def _count(self, _: RequestContext, event: Event) -> None:
        self.events[event.action, event.succeeded] += 1
        if event.action == _CODE_REQUIRED:
            self.logins["code_required"] += 1
        elif event.action == "login" and event.succeeded:
            self.logins["accepted"] += 1
        elif event.action == "login":
            self.logins[_BY_REASON.get(event.details.get("reason", ""), "refused")] += 1
