"""Prometheus understands examples/monitoring, and alerts when it should.

tests/monitoring/test_metrics.py checks that the metrics exist.
"""

import json
import subprocess
from itertools import combinations
from pathlib import Path

import pytest

from app.settings import ROOT

FOLDER = ROOT / "examples/monitoring"


@pytest.mark.parametrize(
    ("command", "path"),
    [
        pytest.param("check config", FOLDER / "prometheus.yml", id="the configuration"),
        pytest.param("check rules", FOLDER / "hourpass.rules.yml", id="the rules"),
        pytest.param("test rules", Path(__file__).parent / "hourpass.rules.test.yml", id="alerts"),
    ],
)
def test_prometheus_accepts(command: str, path: Path) -> None:
    ran = subprocess.run(
        ["promtool", *command.split(), path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "SUCCESS" in ran.stdout


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    cells = [
        {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        for place in (panel["gridPos"] for panel in panels)
    ]
    assert all(one.isdisjoint(other) for one, other in combinations(cells, 2))
    assert max(x for cell in cells for x, _ in cell) < 24
