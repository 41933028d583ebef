"""`make run` installs in `.venv`, also after an interruption and beside another `make run`.

The Makefile is the real one; the packages are tiny, and are not downloaded.
"""

import ast
import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.database import migrations
from app.settings import ROOT
from tests.support.processes import environment
from tests.support.waiting import until

SECONDS = 120  # making an environment takes 5

# Builds a wheel with one module. That of the guard has the command.
BACKEND = """
import pathlib, zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = pathlib.Path("name").read_text()
    about = f"{name}-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(directory, f"{name}-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(f"{name}.py", "def main(): print('Serving')")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{about}/entry_points.txt", f"[console_scripts]\\n{name} = {name}:main\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return f"{name}-1-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def write_requirements(project: Path, name: str, *packages: str) -> None:
    lines = []
    for package in packages:
        wheel = project / f"{package}-1-py3-none-any.whl"
        about = f"{package}-1.dist-info"
        with ZipFile(wheel, "w") as archive:
            archive.writestr(f"{package}.py", "")
            metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n"
            archive.writestr(f"{about}/METADATA", metadata)
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"./{wheel.name} --hash=sha256:{digest}\n")
    (project / name).write_text("".join(lines))


def create_project(directory: Path) -> Path:
    (directory / ".ci").mkdir(parents=True)
    (directory / "guard").mkdir()
    for path in ("Makefile", ".ci/install.py"):
        shutil.copy(ROOT / path, directory / path)
    for folder, name in ((directory, "service"), (directory / "guard", "hourpass")):
        (folder / "name").write_text(name)
        (folder / "backend.py").write_text(BACKEND)
        (folder / "pyproject.toml").write_text(PROJECT)
    write_requirements(directory, "requirements.txt", "needed")
    write_requirements(directory, "requirements-dev.txt", "needed", "tool")
    return directory


def make(project: Path, target: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["make", target],
        cwd=project,
        env={**environment(PYTHON=sys.executable, PIP_NO_INDEX="1"), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output_of(process: subprocess.Popen[str], status: int = 0) -> str:
    with process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == status, output
    return output


def changed_python(directory: Path, change: str) -> str:
    """The name of a Python in which this statement runs before the program."""
    program = (
        f"import runpy, sys; {change}; sys.argv = sys.argv[2:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = directory / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def old_python(directory: Path) -> str:
    return changed_python(directory, "sys.version_info = (3, 9, 18)")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose installation was killed, and in which two `make run` then began at once."""
    project = create_project(tmp_path_factory.mktemp("a clone") / "100% ours")
    first = make(project, "run")
    asyncio.run(until((project / ".venv/bin/python").exists))
    os.killpg(first.pid, signal.SIGKILL)
    output_of(first, -signal.SIGKILL)
    assert (project / ".venv/unfinished").exists()
    (project / ".venv/bin/left-over").touch()

    outputs = [output_of(process) for process in (make(project, "run"), make(project, "run"))]

    assert all(output.endswith("Serving\n") for output in outputs), outputs
    assert "".join(outputs).count("because its installation was interrupted") == 1
    assert "".join(outputs).count("Installing the service") == 1
    return project


def test_an_interrupted_installation_is_repeated(installed: Path) -> None:
    assert not (installed / ".venv/unfinished").exists()
    assert not (installed / ".venv/bin/left-over").exists()


def test_a_finished_installation_needs_only_its_own_python(installed: Path) -> None:
    assert output_of(make(installed, "run", PYTHON="/nonexistent")) == "Serving\n"


def test_an_environment_that_was_moved_is_created_again(installed: Path, tmp_path: Path) -> None:
    moved = installed.rename(installed.with_name("moved"))
    try:
        output = output_of(make(moved, "run", PYTHON=old_python(tmp_path)), status=2)
    finally:
        moved.rename(installed)
    assert output.startswith("Hourpass needs Python 3.11 or newer. ")


def test_variables_for_other_pythons_do_not_redirect_the_installation(
    installed: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    about = elsewhere / "tool-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tool\nVersion: 1\n")
    (elsewhere / "hourpass.py").write_text("raise SystemExit('not ours')")
    variables = {
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": str(elsewhere),
        "PYTHONWARNINGS": "error",
        "PIP_USER": "1",
        "PIP_TARGET": str(elsewhere),
        "PIP_REQUIRE_HASHES": "1",
        "PIP_CONSTRAINT": "/nonexistent",
    }
    output_of(make(installed, ".venv/dev", **variables))
    assert list(installed.glob(".venv/lib/python*/site-packages/tool.py"))
    assert not (elsewhere / "tool.py").exists()
    assert output_of(make(installed, "run", **variables)) == "Serving\n"


def test_a_failed_download_leaves_a_working_environment(installed: Path) -> None:
    requirements = installed / "requirements-dev.txt"
    before = requirements.read_text()
    requirements.write_text("nonexistent==1 --hash=sha256:" + 64 * "0" + "\n")
    try:
        output = output_of(make(installed, ".venv/dev"), status=2)
    finally:
        requirements.write_text(before)
    assert "pip could not install everything in .venv.\n" in output
    assert not (installed / ".venv/unfinished").exists()
    assert output_of(make(installed, "run")) == "Serving\n"


def test_the_message_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    project = create_project(tmp_path / "project")
    output = output_of(make(project, "run", PYTHON=old_python(tmp_path)), status=2)
    line, *rest = output.splitlines()
    assert line.startswith("Hourpass needs Python 3.11 or newer. ")
    assert " is Python 3.9.18. Name another one, for example: make run PYTHON=python3." in line
    assert len(rest) == 1  # that of `make`


def test_the_message_names_the_package_of_a_missing_ensurepip(tmp_path: Path) -> None:
    """Debian's, without the package python3-venv."""
    project = create_project(tmp_path / "project")
    python = changed_python(tmp_path, "sys.modules['ensurepip'] = None")
    line, *rest = output_of(make(project, "run", PYTHON=python), status=2).splitlines()
    assert line.endswith("install the package python3-venv.")
    assert len(rest) == 1


def test_an_environment_that_is_not_ours_is_refused_and_kept(tmp_path: Path) -> None:
    project = create_project(tmp_path / "project")
    theirs = project / ".venv/bin/theirs"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    output = output_of(make(project, "run"), status=2)
    line = ".venv cannot be used: its Python is gone. Remove it and try again."
    assert output.startswith(f"{line}\n")
    assert theirs.exists()


def test_older_pythons_can_read_the_file_that_names_them() -> None:
    ast.parse((ROOT / ".ci/install.py").read_text(), feature_version=(3, 6))


def test_a_checkout_works_below_any_folder_name(tmp_path: Path) -> None:
    checkout = tmp_path / "100% sure #1? a%20b"
    for folder in ("app", "alembic", "guard/hourpass"):
        shutil.copytree(ROOT / folder, checkout / folder)
    shutil.copy(ROOT / "alembic.ini", checkout)
    program = """
import runpy, sys
for sys.argv in (["hourpass", "migrate"], ["alembic", "current", "--check-heads"]):
    try:
        runpy.run_module(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],  # one interpreter, because its imports take a second
        cwd=checkout,
        env=environment(PYTHONPATH=f"{checkout}:{checkout / 'guard'}"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"The database is at {migrations.HEAD}.\n" in ran.stdout
    assert f"{migrations.HEAD} (head)\n" in ran.stdout
    assert (checkout / "hourpass.db").exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {checkout.name}
