"""Scrapes of /metrics, as Prometheus reads them."""

import time
from collections.abc import Callable, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.service_process import SERVE_TIMEOUT_SECONDS


class Scrape:
    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.text = text
        self.descriptions = {family.name: family.documentation for family in families}
        self.samples: Sequence[Sample] = [
            sample for family in families for sample in family.samples
        ]

    def has(self, name: str) -> bool:
        return any(sample.name == name for sample in self.samples)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def values_of(self, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


def scrape(port: int) -> Scrape:
    response = httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(response.text)


def scrape_until(port: int, condition: Callable[[Scrape], bool]) -> Scrape:
    """Workers report once a second."""
    deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
    while not condition(found := scrape(port)):
        assert time.monotonic() < deadline, found.text
        time.sleep(0.1)
    return found
