"""The numbers of requests that a worker has answered. middleware.py counts, the metrics read them.

Routes are templates such as `/users/{user_id}`, so nothing here comes from a client.
"""

from collections import Counter, defaultdict

from app.errors import ApiError

DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

NO_ROUTE = "unmatched"


class RequestCounts:
    def __init__(self) -> None:
        # By route and status: those that are answered from memory, and the others. Python adds to a
        # dict in half the time that it needs for a defaultdict.
        self.prepared: dict[str, dict[int, int]] = {}
        self.routed: Counter[tuple[str, int]] = Counter()
        # Of the others, by route: the number up to each bound and above the last one, and the sum.
        self.durations: defaultdict[str, list[int]] = defaultdict(
            lambda: [0] * (len(DURATION_BOUNDS) + 1)
        )
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.refusals: Counter[str] = Counter()  # by limit

    def add_refusal(self, error: ApiError | type[ApiError]) -> None:
        """Count an error response, if the request exceeded a limit."""
        if error.limit:
            self.refusals[error.limit] += 1
