"""Takes measurements in turns, so that other load on the machine affects all variants alike."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from benchmarks.load import Load, Result, drive
from benchmarks.servers import Server

_PATIENCE_SECONDS = 300
_LEAD_SECONDS = 0.5

T = TypeVar("T")


class Sample(NamedTuple):
    """The result of one load on one server."""

    rate: float
    cpu_us: float  # per request, all of the server's processes together
    capacity: float  # requests per CPU second of its busiest process
    p99_ms: float


class Row(NamedTuple):
    """A line of the table. The goal is about the ratio."""

    figure: str
    measured: str
    against: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Bench:
    rounds: int
    seconds: float  # that each figure is measured in each round
    users: int  # in the large database; a tenth as many sessions
    share: float  # of the tokens and requests that are given by number
    directory: Path
    postgres: Any
    generators: Pool
    peers_python: Path
    _numbers: "count[int]"

    def new_database(self, kind: str) -> str:
        name = f"bench_{next(self._numbers)}"
        if kind == "SQLite":
            return f"sqlite:///{self.directory / name}.db"
        self.postgres.psql(f"CREATE DATABASE {name}")
        url: str = self.postgres.get_uri(name)
        return url

    def number(self, full: int) -> int:
        return int(full * self.share)

    def drive(self, load: Load, status: int = 200) -> Result:
        """In another process. Anything but the expected answer spoils the figure."""
        result: Result = self.generators.apply_async(drive, (load,)).get(_PATIENCE_SECONDS)
        if set(result.statuses) != {status}:
            raise RuntimeError(f"expected nothing but {status}: {result.statuses}")
        return result

    def measure(
        self, server: Server, requests: Sequence[bytes], times: float = 1, **load: Any
    ) -> Sample:
        """For so many `times` the seconds of a figure, unless the load has a `count`."""
        if "count" not in load:
            load["seconds"] = self.seconds * times
        before = server.cpu_seconds()
        result = self.drive(Load(server.port, requests, **load))
        used = [cpu - before.get(pid, 0) for pid, cpu in server.cpu_seconds().items()]
        return Sample(
            rate=result.rate,
            cpu_us=sum(used) / result.requests * 1e6,
            capacity=result.requests / max(used),
            p99_ms=result.latency(0.99) * 1000,
        )

    @contextmanager
    def under(self, load: Load) -> Iterator[None]:
        """While another load goes on, which has to last for longer."""
        other = self.generators.apply_async(drive, (load,))
        time.sleep(_LEAD_SECONDS)
        yield
        if other.ready():
            raise RuntimeError("the other load ended first")
        other.get(_PATIENCE_SECONDS)

    def by_turns(self, *subjects: Callable[[], T]) -> list[list[T]]:
        """What each subject gave in each round: A B, B A, A B…"""
        taken: list[list[T]] = [[] for _ in subjects]
        for number in range(self.rounds):
            turns = list(zip(subjects, taken, strict=True))
            for subject, samples in reversed(turns) if number % 2 else turns:
                samples.append(subject())
        return taken


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of all rounds. Changes between rounds cancel out."""
    return median(mine / other for mine, other in zip(ours, others, strict=True))
