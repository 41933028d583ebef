"""Writes the metrics in the text format of Prometheus."""

import platform
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Metric as Family
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from app import __version__
from app.http.request_counts import DURATION_BOUNDS
from app.monitoring.metrics.definitions import (
    BUILD_INFO,
    OF_WORKERS,
    WORKERS,
    WORKERS_ENDED,
    WORKERS_WANTED,
    Metric,
)
from app.monitoring.metrics.samples import Labels, Totals, Value
from app.server.reports import Reports
from app.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = [*map(str, DURATION_BOUNDS), "+Inf"]


class Exposition(Collector):
    def __init__(self, settings: Settings, totals: Totals, reports: Reports) -> None:
        self._settings = settings
        self._totals = totals
        self._reports = reports

    def render(self) -> bytes:
        text: bytes = generate_latest(self)
        return text

    def collect(self) -> Iterator[Family]:
        reports = self._reports.read()
        samples = self._totals.merge(reports)
        database = self._settings.database_url.partition(":")[0].partition("+")[0]
        build = (__version__, platform.python_version(), database)
        yield _family(BUILD_INFO, {build: 1})
        yield _family(WORKERS, {(): len(reports)})
        yield _family(WORKERS_WANTED, {(): self._settings.workers})
        yield _family(WORKERS_ENDED, {(): self._totals.number_ended})
        for metric in OF_WORKERS:
            if metric.name in samples:
                yield _family(metric, samples[metric.name])


def _family(metric: Metric, samples: dict[Labels, Value]) -> Family:
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | SummaryMetricFamily
    named = (metric.name, metric.description)
    if metric.kind == "histogram":
        family = HistogramMetricFamily(*named, labels=metric.labels)
        for labels, value in samples.items():
            assert isinstance(value, list)
            *buckets, total = value
            family.add_metric(labels, list(zip(_BOUNDS, accumulate(buckets), strict=True)), total)
    elif metric.kind == "summary":
        family = SummaryMetricFamily(*named, labels=metric.labels)
        for labels, value in samples.items():
            assert isinstance(value, list)
            number, total = value
            family.add_metric(labels, int(number), total)
    else:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(*named, labels=metric.labels)
        for labels, value in samples.items():
            assert not isinstance(value, list)
            family.add_metric(labels, value)
    return family
