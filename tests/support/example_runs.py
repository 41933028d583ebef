"""Whole examples, started by their own scripts as somebody new would start them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import environment, free_port
from tests.support.proxies import EXAMPLES
from tests.support.service_process import SERVE_TIMEOUT_SECONDS


@contextmanager
def running(
    example: str, default_ports: Mapping[str, str], says: str, directory: Path
) -> Iterator[dict[str, str]]:
    """`examples/<example>/run` on ports of its own; yields them once it has said that it is up.
    What Ctrl-C would end has left nothing behind afterwards."""
    ports = {name: str(free_port()) for name in default_ports}
    variables = environment(
        **ports,
        PYTHON=sys.executable,
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
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
    """What the README's commands print that begin so, on these ports instead of the default."""
    readme = (EXAMPLES / example / "README.md").read_text()
    pattern = rf"^```bash\n({re.escape(begins)}.*?)^```$"
    (script,) = re.findall(pattern, readme, re.MULTILINE | re.DOTALL)
    for name, default in default_ports.items():
        script = script.replace(f":{default}/", f":{ports[name]}/")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    return ran.stdout
