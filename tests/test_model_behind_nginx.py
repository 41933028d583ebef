"""The example's README, as somebody new would follow it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SERVE_TIMEOUT_SECONDS, environment, free_port
from tests.gateways import EXAMPLES

EXAMPLE = EXAMPLES / "model_behind_nginx"
DEFAULT_PORTS = {"HOURPASS_PORT": "8000", "MODEL_PORT": "9000", "NGINX_PORT": "8080"}


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of all three, started by the example's own script; Ctrl-C ends them."""
    ports = {name: str(free_port()) for name in DEFAULT_PORTS}
    variables = environment(
        **ports,
        PYTHON=sys.executable,
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
        TMPDIR=str(tmp_path),
    )
    output = tmp_path / "output"
    with output.open("wb") as writer:
        run = subprocess.Popen(
            [EXAMPLE / "run"], env=variables, stdout=subprocess.PIPE, stderr=writer, text=True
        )
    try:
        assert run.stdout
        assert any("The model is at" in line for line in run.stdout), output.read_text()
        yield ports
    finally:
        run.terminate()
        run.communicate(timeout=SERVE_TIMEOUT_SECONDS)
    assert list(tmp_path.iterdir()) == [output]


def test_the_readme_leads_from_nothing_to_a_prediction(ports: dict[str, str]) -> None:
    readme = (EXAMPLE / "README.md").read_text()
    (script,) = re.findall(r"^```bash\n(curl.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    for name, default in DEFAULT_PORTS.items():
        script = script.replace(f":{default}/", f":{ports[name]}/")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith('{"species":["setosa","virginica"]}')
    assert '{"species":["setosa","virginica"]}' in readme
