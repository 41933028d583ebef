"""The values of metrics, and how those of several workers become one."""

import json
from collections.abc import Callable, Iterable, Mapping

from app.monitoring.metrics.definitions import BY_NAME, Metric

# A number, or for a summary: its count and sum; for a histogram: a count per bucket, and the sum.
Value = float | list[float]
Labels = tuple[str, ...]
Samples = dict[str, dict[Labels, Value]]  # by the name of the metric, and the values of its labels


def dump(samples: Samples) -> bytes:
    listed = {
        name: [[labels, value] for labels, value in by_labels.items()]
        for name, by_labels in samples.items()
    }
    return json.dumps(listed, separators=(",", ":")).encode()


def load(report: bytes) -> Samples:
    """Of known metrics. After an upgrade and SIGHUP, the workers are of another version than the
    supervisor."""
    return {
        name: {tuple(labels): value for labels, value in listed}
        for name, listed in json.loads(report).items()
        if name in BY_NAME
    }


_MERGE: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}


class Totals:
    """The values of all workers. Those that have ended stay in the counters."""

    def __init__(self) -> None:
        self._ended: Samples = {}
        self.number_ended = 0

    def retire(self, report: bytes | None) -> None:
        """Keep what a worker that has ended has counted."""
        self.number_ended += 1
        if report is None:
            return
        lasting = {
            name: by_labels
            for name, by_labels in load(report).items()
            if BY_NAME[name].outlasts_its_worker
        }
        self._ended = _merge([self._ended, lasting])

    def merge(self, reports: Iterable[bytes]) -> Samples:
        return _merge([self._ended, *map(load, reports)])


def _merge(all_samples: Iterable[Samples]) -> Samples:
    merged: Samples = {}
    for samples in all_samples:
        for name, by_labels in samples.items():
            _add(BY_NAME[name], merged.setdefault(name, {}), by_labels)
    return merged


def _add(metric: Metric, to: dict[Labels, Value], samples: Mapping[Labels, Value]) -> None:
    for labels, value in samples.items():
        known = to.get(labels)
        if known is None:
            to[labels] = value
        elif isinstance(value, list):
            assert isinstance(known, list)
            if len(known) == len(value):
                to[labels] = [one + other for one, other in zip(known, value, strict=True)]
        else:
            assert not isinstance(known, list)
            to[labels] = _MERGE[metric.merge]((known, value))
