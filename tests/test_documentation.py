"""What the documents say is so: settings, chores, links, and the code that a reader will paste."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from click.testing import CliRunner

from app import __version__
from app.cli.main import main
from app.settings import ROOT, Settings
from tests.conftest import client_of, free_port, serving
from tests.people import LANCELOT, log_in, register
from tests.sockets import served

README = (ROOT / "README.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")]
BASE_URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in that language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return found


def block(language: str, containing: str) -> str:
    (found,) = [block for block in blocks(language) if containing in block]
    return found


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make run` starts: the service on an empty SQLite database."""
    path = tmp_path_factory.mktemp("documentation") / "hourpass.db"
    with serving(f"sqlite:///{path}") as url:
        yield url


def test_the_example_env_file_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(main, ["settings"])
    assert printed.exit_code == 0
    assert (ROOT / ".env.example").read_text() == printed.output


def test_the_readme_lists_every_setting_as_it_is() -> None:
    rows = [
        f"| `{name.upper()}` | {'' if field.default in (None, ()) else f'`{field.default}`'} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    assert re.findall(r"^\| `.*$", README, re.MULTILINE) == rows


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_named_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    named = {name for piece in code for name in re.findall(r"\bmake ([a-z]+)", piece)}
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert named <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_changelog_has_an_entry_for_this_version() -> None:
    entry = rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$"
    assert re.search(entry, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_readmes_first_token_with_curl(base_url: str) -> None:
    script = block("bash", "TOKEN=$(").replace(BASE_URL, base_url)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    assert '"user_id":' in ran.stdout
    assert '{"message":"Token is valid"}' in ran.stdout
    assert '"username":"ada"' in ran.stdout


def test_the_readmes_first_token_with_python(base_url: str) -> None:
    script = block("python", "httpx.Client(").replace(BASE_URL, base_url)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("{'message': 'Token is valid'}\n")
    assert "'username': 'grace'" in ran.stdout


def ml_api(directory: Path, hourpass: str) -> ModuleType:
    """The README's protected API, with the Hourpass of that URL."""
    path = directory / "ml_api.py"
    path.write_text(block("python", "Guard(").replace(BASE_URL, hourpass))
    spec = importlib.util.spec_from_file_location("ml_api", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def call_with(client: httpx.AsyncClient, token: str) -> list[int]:
    """The statuses for the token, one like it, one that cannot be, and none."""
    statuses = []
    for bearer in (f"Bearer {token}", f"Bearer {token[:-1]}", "Bearer 🔑", None):
        headers = {b"Authorization": bearer.encode()} if bearer else {}
        response = await client.post("/predict", headers=headers)
        statuses.append(response.status_code)
        if response.status_code == 401:
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    return statuses


def test_three_lines_protect_an_api() -> None:
    lines = block("python", "Guard(").splitlines()
    assert len([line for line in lines if "guard" in line.lower()]) == 3


async def test_the_readmes_api_lets_only_valid_tokens_in(base_url: str, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=base_url) as hourpass:
        await register(hourpass, LANCELOT)
        token = await log_in(hourpass, LANCELOT)
    module = ml_api(tmp_path, base_url)
    with module.guard, served(module.app) as api:
        async with httpx.AsyncClient(base_url=api) as client:
            statuses = await call_with(client, token)
    assert statuses == [200, 401, 401, 401]


async def test_the_readmes_api_lets_nobody_in_while_hourpass_is_away(tmp_path: Path) -> None:
    module = ml_api(tmp_path, f"http://127.0.0.1:{free_port()}")
    async with client_of(module.app) as client:
        response = await client.post("/predict", headers={"Authorization": "Bearer a.b.c"})
    assert response.status_code == 503
    module.guard.close()
