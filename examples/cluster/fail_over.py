"""`switchover` hands over to a standby, `kill-primary` kills the primary. Each prints the responses
that a client gets meanwhile, one line a second.
"""

import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

from examples.cluster.members import Cluster, request, status

PAUSE_SECONDS = 0.2  # of each client between two calls
BEFORE_SECONDS, AFTER_SECONDS, LONGEST_SECONDS = 3, 5, 120

Results = dict[str, Counter[int | None]]


class Client:
    """Three threads: one logs in, one calls the API, one registers users."""

    def __init__(self, cluster: Cluster) -> None:
        self._hourpass, self._api = cluster.url("front"), cluster.api_url
        self._name = f"user-{secrets.token_hex(4)}"
        self._password = secrets.token_hex(8)
        self._numbers = count()
        self._register()
        _, answer = request(f"{self._hourpass}/token", self._credentials(self._name))
        if not answer:
            sys.exit(f"{self._hourpass} does not answer. Start the example with `make` first.")
        self._token: str = answer["access_token"]
        self._calls: dict[str, Callable[[], int | None]] = {
            "logins": self._log_in,
            "token checks": self._call_api,
            "registrations": self._register,
        }
        self._results: Results = {}
        self.take_results()

    def start(self) -> None:
        for name in self._calls:
            threading.Thread(target=self._repeat, args=(name,), daemon=True).start()

    def take_results(self) -> Results:
        """A summary of the calls since the last one."""
        results, self._results = self._results, {name: Counter() for name in self._calls}
        return results

    def _repeat(self, name: str) -> None:
        while True:
            answered = self._calls[name]()
            self._results[name][answered] += 1
            time.sleep(PAUSE_SECONDS)

    def _log_in(self) -> int | None:
        return status(f"{self._hourpass}/token", self._credentials(self._name))

    def _call_api(self) -> int | None:
        return status(f"{self._api}/whoami", token=self._token)

    def _register(self) -> int | None:
        number = next(self._numbers)
        name = f"{self._name}-{number}" if number else self._name
        user = {**self._credentials(name), "email": f"{name}@example.org"}
        return status(f"{self._hourpass}/register-user", user)

    def _credentials(self, name: str) -> dict[str, str]:
        return {"username": name, "password": self._password}


def show(second: int, results: Results, note: str = "") -> None:
    """A line such as `12 s  logins 503 x4  token checks 200 x5  registrations none x1`."""
    columns = [f"{second:3} s"]
    for name, counter in results.items():
        answers = [f"{answer or 'no answer'} x{times}" for answer, times in counter.items()]
        columns.append(f"{name} {', '.join(answers) or 'waiting'}".ljust(34))
    print("  ".join(columns), note, flush=True)


def watch(cluster: Cluster, act: Callable[[], None]) -> None:
    """Print a line a second until another member has led for some seconds."""
    client = Client(cluster)
    client.start()
    primary, led_since = cluster.primary(), None
    for second in range(1, LONGEST_SECONDS):
        time.sleep(1)
        note = ""
        if second == BEFORE_SECONDS:
            threading.Thread(target=act, daemon=True).start()
            note = f"now: {sys.argv[1]}, {primary} leads"
        leader = cluster.primary()
        if led_since is None and second > BEFORE_SECONDS and leader not in (None, primary):
            led_since, note = second, f"{leader} leads"
        show(second, client.take_results(), note)
        if led_since and second > led_since + AFTER_SECONDS:
            return
    sys.exit("No other member leads.")


def main() -> None:
    cluster = Cluster.from_environment()
    acts = {
        "switchover": cluster.switch_over,
        "kill-primary": lambda: cluster.kill(cluster.primary() or ""),
    }
    watch(cluster, acts[sys.argv[1]])


if __name__ == "__main__":
    main()
