"""The built packages are all that the service needs, outside the repository too."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from email import message_from_bytes
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.database import migrations
from app.settings import ROOT
from tests.support.processes import environment
from tests.support.started_service import started
from tests.support.users import ARTHUR

PROJECTS = {"hourpass": ROOT / "guard", "hourpass-service": ROOT}
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")


def run(*command: object, cwd: Path, **variables: str) -> str:
    """What it prints. Fails if the command does."""
    arguments = list(map(str, command))
    variables = environment(**variables)
    ran = subprocess.run(
        arguments, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make build` puts into dist/."""
    directory = tmp_path_factory.mktemp("dist")
    for project in PROJECTS.values():
        run(sys.executable, "-m", "hatchling", "build", "-d", directory, cwd=project)
    return directory


def contents(directory: Path, package: str) -> dict[str, bytes]:
    """The files of its wheel."""
    [path] = directory.glob(f"{package.replace('-', '_')}-*.whl")
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def dist_info(directory: Path, package: str) -> dict[str, bytes]:
    files = contents(directory, package).items()
    return {name.partition("/")[2]: text for name, text in files if ".dist-info/" in name}


def requirements(package: str, archives: Path) -> list[Requirement]:
    lines: Iterable[str] | None = metadata.requires(package)
    if package in PROJECTS:  # not what an old installation says
        about = message_from_bytes(dist_info(archives, package)["METADATA"])
        lines = about.get_all("Requires-Dist")
    return list(map(Requirement, lines or ()))


def required_packages(requirement: str, archives: Path) -> set[str]:
    """All that pip would download for it, except ours."""
    waiting = [Requirement(requirement)]
    found: set[tuple[str, str]] = set()
    while waiting:
        current = waiting.pop()
        name = str(canonicalize_name(current.name))
        for extra in {"", *current.extras} - {extra for seen, extra in found if seen == name}:
            found.add((name, extra))
            waiting.extend(
                other
                for other in requirements(name, archives)
                if other.marker is None or other.marker.evaluate({"extra": extra})
            )
    return {name for name, _ in found} - PROJECTS.keys()


def install(requirement: str, archives: Path, directory: Path) -> Path:
    """Install it in a new environment, with the packages of this one: nothing is downloaded.
    Returns the folder with the programs."""
    venv.create(directory, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(directory)})
    site_packages = Path(paths["purelib"])
    for name in required_packages(requirement, archives):
        distribution = metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site_packages / part).exists():
                (site_packages / part).symlink_to(str(distribution.locate_file(part)))
    programs = Path(paths["scripts"])
    options = ("--no-index", "--find-links", archives, requirement)
    run(*PIP, "--python", programs / "python", "install", *options, cwd=directory)
    return programs


@pytest.fixture(scope="module")
def programs(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of an environment with the service."""
    return install("hourpass[server]", archives, tmp_path_factory.mktemp("environment"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has an `app` too, as FastAPI projects do."""
    project = tmp_path / "project"
    (project / "app").mkdir(parents=True)
    (project / "app" / "__init__.py").write_text("raise RuntimeError('This is not the service.')")
    return project


def test_the_installed_service_serves_from_any_folder(
    programs: Path, project: Path, tmp_path: Path
) -> None:
    command = (str(programs / "python"), "-m", "hourpass", "serve", "--workers", "2")
    with started(tmp_path, *command, cwd=project) as service:
        service.wait_for_workers(2)
        with httpx.Client(base_url=service.base_url, verify=False) as client:
            assert client.post("/register-user", json=ARTHUR).status_code == 201
            token = client.post("/token", json=ARTHUR).json()["token"]
            assert client.get(f"/token_status/{token}").status_code == 200
            assert client.get("/docs").status_code == 200
        service.interrupt()
    assert {path.name for path in project.iterdir()} == {
        "app",
        "hourpass.db",
        "hourpass.db-processes",
    }


def test_the_installed_command_keeps_its_files_in_the_home(
    programs: Path, project: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    printed = run(programs / "hourpass", "migrate", cwd=project, HOURPASS_HOME=str(home))
    assert printed == f"The database is at {migrations.HEAD}.\n"
    assert (home / "hourpass.db").exists()
    assert {path.name for path in project.iterdir()} == {"app"}


def test_without_the_service_the_command_says_how_to_install_it(
    archives: Path, tmp_path: Path
) -> None:
    programs = install("hourpass", archives, tmp_path / "environment")
    ran = subprocess.run(
        [programs / "hourpass", "serve"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.endswith('pip install "hourpass[server]"\n')


@pytest.mark.parametrize("package", PROJECTS)
def test_the_source_archive_makes_the_same_wheel(
    archives: Path, tmp_path: Path, package: str
) -> None:
    [source] = archives.glob(f"{package.replace('-', '_')}-[0-9]*.tar.gz")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    run(*PIP, "wheel", *options, source, cwd=tmp_path)
    assert contents(tmp_path, package) == contents(archives, package)


@pytest.mark.parametrize(
    ("package", "folder"), [("hourpass", "hourpass"), ("hourpass-service", "app")]
)
def test_a_wheel_has_one_package_with_its_types_licence_and_readme(
    archives: Path, package: str, folder: str
) -> None:
    project = PROJECTS[package]
    files, about = contents(archives, package), dist_info(archives, package)
    folders = {name.partition("/")[0] for name in files}
    assert {name for name in folders if not name.endswith(".dist-info")} == {folder}
    assert f"{folder}/py.typed" in files
    assert about["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    described = message_from_bytes(about["METADATA"])
    assert described.get_payload(decode=True) == (project / "README.md").read_bytes()
    assert described["License-Expression"] == "MIT"
    assert "Typing :: Typed" in described.get_all("Classifier", [])
    assert described.get_all("Project-URL", []) == []  # none that does not exist


def test_every_migration_is_in_the_wheel(archives: Path) -> None:
    ours = {path.name for path in (ROOT / "alembic").glob("versions/*.py")}
    folder = "app/database/alembic/versions/"
    names = contents(archives, "hourpass-service")
    assert {name.removeprefix(folder) for name in names if name.startswith(folder)} == ours
