"""Whole examples, started by their own scripts, in the environment of `make test-examples`."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import environment, free_port
from tests.support.proxies import EXAMPLES, EXAMPLES_BIN
from tests.support.service_process import SERVE_TIMEOUT_SECONDS

EXAMPLES_PYTHON = EXAMPLES_BIN / "python"


@contextmanager
def running(
    example: str, default_ports: Mapping[str, str], says: str, directory: Path
) -> Iterator[dict[str, str]]:
    """Start `examples/<example>/run`. Yields the ports once a line of its output contains `says`.
    After it has ended, nothing is left in the directory."""
    ports = {name: str(free_port()) for name in default_ports}
    variables = environment(
        **ports,
        PYTHON=str(EXAMPLES_PYTHON),
        TMPDIR=str(directory),
    )
    errors = directory / "errors"
    with errors.open("wb") as writer:
        run = subprocess.Popen(
            [EXAMPLES / example / "run"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
        )
    try:
        assert run.stdout
        assert any(says in line for line in run.stdout), errors.read_text()
        yield ports
    finally:
        run.terminate()
        run.communicate(timeout=SERVE_TIMEOUT_SECONDS)
    assert list(directory.iterdir()) == [errors]


def from_readme(
    example: str, begins: str, default_ports: Mapping[str, str], ports: Mapping[str, str]
) -> str:
    """Run the README's commands that begin so, with these ports. Returns what they print."""
    readme = (EXAMPLES / example / "README.md").read_text()
    pattern = rf"^```bash\n({re.escape(begins)}.*?)^```$"
    (script,) = re.findall(pattern, readme, re.MULTILINE | re.DOTALL)
    for name, default in default_ports.items():
        script = script.replace(f":{default}/", f":{ports[name]}/")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    return ran.stdout
