"""examples/model_behind_nginx, started and called as its README says."""

from pathlib import Path

from tests.support.example_runs import from_readme, running
from tests.support.proxies import EXAMPLES

EXAMPLE = "model_behind_nginx"
PORTS = {"HOURPASS_PORT": "8000", "MODEL_PORT": "9000", "NGINX_PORT": "8080"}


def test_the_readme_leads_from_nothing_to_a_prediction(tmp_path: Path) -> None:
    with running(EXAMPLE, PORTS, "The model is at", tmp_path) as ports:
        printed = from_readme(EXAMPLE, "curl", PORTS, ports)
    assert printed.endswith('{"species":["setosa","virginica"]}')
    assert '{"species":["setosa","virginica"]}' in (EXAMPLES / EXAMPLE / "README.md").read_text()
