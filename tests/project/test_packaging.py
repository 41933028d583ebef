"""The image, the compose file and the pinned requirements keep what the documentation promises."""

import json
import re
import sys
import tomllib
from importlib import metadata
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app import __version__
from app.settings import ROOT
from tests.support.imported_names import imported

MAKEFILE = (ROOT / "Makefile").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DATABASE = COMPOSE["services"]["database"]
HOURPASS = COMPOSE["services"]["hourpass"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
GUARD: dict[str, Any] = tomllib.loads((ROOT / "guard/pyproject.toml").read_text())
DEPENDENCIES = [
    *(line for line in PROJECT["project"]["dependencies"] if not line.startswith("hourpass")),
    *GUARD["project"]["dependencies"],
    *PROJECT["build-system"]["requires"],
]
SERVICE, DEVELOPMENT, BENCH, CLIENTS, FOR_EXAMPLES = (
    ROOT / f"requirements{use}.txt" for use in ("", "-dev", "-bench", "-clients", "-examples")
)

EXAMPLES = sorted((ROOT / "examples").glob("*/requirements.txt"))

# `COPY --from=stage` takes from an image, not from here.
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    for source in line.split()[:-1]
]
PIN = re.compile(
    r"^([A-Za-z0-9][\w.-]*)(?:\[[\w, -]+\])?==([^\s;]+)"
    r"(?:[^\\\n]*\\\n\s+--hash=sha256:[0-9a-f]{64})+"
)


def pins(requirements: str) -> dict[str, str]:
    """Each pinned name with its version. Fails on an entry that is not pinned or has no hash."""
    found: dict[str, str] = {}
    without_comments = re.sub(r"^\s*#.*\n?", "", requirements, flags=re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", without_comments.strip()):
        pin = PIN.match(entry)
        assert pin, f"not pinned with hashes: {entry.splitlines()[0]}"
        found[canonicalize_name(pin[1])] = pin[2]
    return found


@pytest.mark.parametrize("path", COPIED)
def test_what_the_image_copies_exists_and_is_not_ignored(path: str) -> None:
    assert (ROOT / path).exists()
    assert IGNORED[0] == "*"
    assert f"!{path}" in IGNORED


def test_the_image_gets_nothing_but_what_it_copies() -> None:
    assert {entry.removeprefix("!") for entry in IGNORED if entry[0] == "!"} == set(COPIED)


def test_the_image_installs_only_what_is_pinned_by_hash() -> None:
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-deps --no-build-isolation" in install


def test_the_image_has_the_bytecode_that_a_read_only_file_system_cannot_get() -> None:
    assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE
    compiled = re.findall(r"compileall (?:.*\\\n)*.*", DOCKERFILE)
    assert len(compiled) == 3
    for run, place in zip(
        compiled, ("/opt/venv/lib", "/usr/local/lib/python3.*", "site-packages/app"), strict=True
    ):
        assert "--invalidation-mode unchecked-hash" in run
        assert place in run


def test_the_image_runs_unprivileged_with_its_data_in_a_volume() -> None:
    final_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.findall(r"^USER (\d+):\d+$", final_stage, re.MULTILINE)
    assert user
    assert int(user[-1]) > 0
    assert "HOURPASS_HOME=/data" in final_stage
    assert "DATABASE_URL" not in final_stage  # DATABASE_URL_FILE could not be set beside it
    assert "\nVOLUME /data\n" in final_stage
    assert "\nHEALTHCHECK " in final_stage


def test_both_containers_are_checked_for_health() -> None:
    assert "pg_isready" in DATABASE["healthcheck"]["test"]
    assert "/readyz" in HOURPASS["healthcheck"]["test"][-1]


def test_the_image_and_the_compose_file_check_health_alike() -> None:
    command = HOURPASS["healthcheck"]["test"][-1]
    assert f'"{command}"' in DOCKERFILE


def test_hourpass_runs_without_privileges_on_a_read_only_file_system() -> None:
    assert HOURPASS["read_only"] is True
    assert HOURPASS["cap_drop"] == ["ALL"]
    assert HOURPASS["security_opt"] == ["no-new-privileges:true"]
    assert f"\nUSER {HOURPASS['user']}\n" in DOCKERFILE


def test_hourpass_waits_for_a_healthy_database() -> None:
    assert HOURPASS["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_the_database_is_postgresql_17_in_a_volume() -> None:
    assert DATABASE["image"] == "${POSTGRES_IMAGE:-postgres:17}"
    assert DATABASE["volumes"] == ["database:/var/lib/postgresql/data"]
    assert "database" in COMPOSE["volumes"]


def test_only_hourpass_reaches_the_database() -> None:
    assert "ports" not in DATABASE
    (network,) = DATABASE["networks"]
    assert COMPOSE["networks"][network]["internal"] is True
    assert network in HOURPASS["networks"]


def test_both_images_can_be_pinned_by_digest_without_changing_a_file() -> None:
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert HOURPASS["build"]["args"] == {"PYTHON_IMAGE": f"${{PYTHON_IMAGE:-{default}}}"}
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON_IMAGE}"}
    deployment = (ROOT / "docs/deployment.md").read_text()
    for name, tag in (("PYTHON_IMAGE", default), ("POSTGRES_IMAGE", "postgres:17")):
        assert f"\n{name}={tag}@sha256:" in deployment


def test_the_version_of_compose_that_the_file_needs_is_named() -> None:
    for path in ("docker-compose.yml", "docs/deployment.md"):
        assert "Docker Compose 2.24 or newer" in (ROOT / path).read_text()


def test_secrets_are_files_and_not_in_the_environment_of_a_container() -> None:
    assert HOURPASS["environment"] == {
        f"{name.upper()}_FILE": f"/run/secrets/{name}" for name in HOURPASS["secrets"]
    }
    assert set(HOURPASS["secrets"]) == {"database_url", "secret_key"}
    [password] = DATABASE["secrets"]
    assert DATABASE["environment"]["POSTGRES_PASSWORD_FILE"] == f"/run/secrets/{password}"
    assert not [name for name in DATABASE["environment"] if name.endswith("PASSWORD")]
    used = {*HOURPASS["secrets"], password}
    assert COMPOSE["secrets"] == {name: {"file": f"./secrets/{name}"} for name in used}
    assert "\n/secrets/\n" in (ROOT / ".gitignore").read_text()
    deployment = (ROOT / "docs/deployment.md").read_text()
    assert all(f"> secrets/{name}" in deployment for name in used)


@pytest.mark.parametrize("container", [DATABASE, HOURPASS], ids=["database", "hourpass"])
def test_containers_have_a_memory_limit_and_logs_that_rotate(container: dict[str, Any]) -> None:
    assert container["mem_limit"].startswith("${")
    assert container["pids_limit"] > 0
    assert container["logging"] == {
        "driver": "local",
        "options": {"max-size": "20m", "max-file": "5"},
    }


def test_the_image_has_a_name() -> None:
    assert HOURPASS["image"] == "${HOURPASS_IMAGE:-hourpass}"


def test_the_operators_settings_reach_hourpass_and_its_address_inside_stays() -> None:
    assert HOURPASS["env_file"] == [{"path": ".env", "required": False}]
    assert HOURPASS["ports"] == ["${HOST:-127.0.0.1}:${PORT:-8000}:8000"]
    assert '"--host", "0.0.0.0", "--port", "8000"' in DOCKERFILE
    assert "command" not in HOURPASS


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    lint = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[0]
    commands = lint.replace("$(BIN)", ".venv/bin")
    linters = re.findall(r"@(.*?)(?: \.)?\n", commands)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == linters


@pytest.mark.parametrize(
    "path",
    [SERVICE, DEVELOPMENT, BENCH, CLIENTS, FOR_EXAMPLES, *EXAMPLES],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_requirements_are_pinned_with_hashes_and_name_no_host(path: Any) -> None:
    text = path.read_text()
    assert pins(text)
    assert "://" not in text


def test_the_npm_packages_are_pinned_with_hashes_and_name_no_host() -> None:
    text = (ROOT / "tests/clients/package-lock.json").read_text()
    packages = {name: it for name, it in json.loads(text)["packages"].items() if name}
    assert packages
    assert all(it["integrity"].startswith("sha512-") for it in packages.values())
    assert "://" not in text
    assert "resolved" not in text


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_a_dependency_is_pinned_within_its_bounds(dependency: str) -> None:
    requirement = Requirement(dependency)
    pinned = pins(SERVICE.read_text())[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


def test_every_package_that_the_service_imports_is_a_dependency() -> None:
    """So that an update of another package, which brings it today, cannot remove it."""
    declared = modules_of(DEPENDENCIES)
    declared.add("pydantic_core")  # Pydantic pins its exact version
    declared.add("hourpass")  # not among DEPENDENCIES, because it is in guard/
    optional = modules_of(PROJECT["project"]["optional-dependencies"]["otel"])
    for path in [*(ROOT / "app").rglob("*.py"), *(ROOT / "alembic").rglob("*.py")]:
        names = {name.partition(".")[0] for name in imported(path)}
        allowed = declared | (optional if path.parent.name == "tracing" else set())
        assert names - sys.stdlib_module_names - {"app"} <= allowed, path


def modules_of(dependencies: list[str]) -> set[str]:
    """The modules and packages that these distributions install."""
    names = (Requirement(line).name for line in dependencies)
    files = (file for name in names for file in metadata.files(name) or ())
    return {file.parts[0].partition(".")[0] for file in files}


@pytest.mark.parametrize("path", [DEVELOPMENT, FOR_EXAMPLES], ids=lambda path: path.name)
def test_requirements_that_contain_the_service_agree_with_its_own(path: Any) -> None:
    service, larger = pins(SERVICE.read_text()), pins(path.read_text())
    assert service.keys() <= larger.keys()
    assert service == {name: larger[name] for name in service}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_adds_to_the_service_what_the_tests_of_it_have(path: Any) -> None:
    added, tested = pins(path.read_text()), pins(FOR_EXAMPLES.read_text())
    assert added.items() <= tested.items()
    assert f".venv/example_{path.parent.name}\n" in (path.parent / "run").read_text()
    assert path.parent.name in (ROOT / ".ci/lock").read_text()


def test_uv_and_poetry_install_the_service_and_the_guard_beside_it_alone() -> None:
    uv, poetry = PROJECT["tool"]["uv"], PROJECT["tool"]["poetry"]
    assert uv["sources"]["hourpass"] == {"path": "guard", "editable": True}
    assert uv["default-groups"] == []
    assert poetry["version"] == __version__
    assert poetry["dependencies"]["hourpass"] == {"path": "guard", "develop": True}
    groups = PROJECT["dependency-groups"].keys()
    assert poetry["group"] == {group: {"optional": True} for group in groups}


@pytest.mark.parametrize("project", [PROJECT, GUARD], ids=["service", "guard"])
def test_the_ci_tests_each_python_that_the_packages_name(project: dict[str, Any]) -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    tested = {*jobs["check"]["strategy"]["matrix"]["python"]}
    tested |= {job["python"] for job in jobs["versions"]["strategy"]["matrix"]["include"]}
    classifiers = " ".join(project["project"]["classifiers"])
    assert set(re.findall(r"Python :: (3\.\d+)", classifiers)) == tested


def test_the_ci_tests_the_oldest_versions_that_are_allowed() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    included = jobs["versions"]["strategy"]["matrix"]["include"]
    assert {"python": "3.11", "resolution": "lowest-direct"} in included
    assert PROJECT["project"]["requires-python"] == GUARD["project"]["requires-python"] == ">=3.11"
