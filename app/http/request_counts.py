"""Counts the requests that a worker has answered. Plain numbers: app/metrics reads them.

Routes are templates such as `/users/{user_id}`, so nothing here comes from a client.
"""

from bisect import bisect_left
from collections import Counter, defaultdict

from app.errors import ApiError

DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

_NO_ROUTE = "unmatched"


class RequestCounts:
    def __init__(self) -> None:
        # By route and status: those that middleware.py answers from memory. It adds to them itself,
        # since a call would cost more than the addition.
        self.prepared: defaultdict[str, defaultdict[int, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self.routed: Counter[tuple[str, int]] = Counter()
        # By route: the number of requests up to each bound and above the last one.
        self.durations: defaultdict[str, list[int]] = defaultdict(
            lambda: [0] * (len(DURATION_BOUNDS) + 1)
        )
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.refusals: Counter[str] = Counter()  # by limit

    def add(self, route: str | None, status: int, seconds: float) -> None:
        """A request that was not answered from memory."""
        route = route or _NO_ROUTE
        self.routed[route, status] += 1
        self.durations[route][bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.seconds[route] += seconds

    def add_refusal(self, error: ApiError | type[ApiError]) -> None:
        """An error response. Counts only those of a limit."""
        if error.limit:
            self.refusals[error.limit] += 1
