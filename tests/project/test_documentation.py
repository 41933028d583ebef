"""Documentation is correct: settings, commands, calls, links, and the code that readers paste."""

import importlib.util
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import httpx
import pytest
from click.testing import CliRunner

from app import __version__
from app.cli.lazy_commands import LazyCommand
from app.cli.main import main
from app.operations.doctor.checks import CHECKS
from app.settings import ROOT
from tests.support.apps import client_of
from tests.support.documentation import block
from tests.support.openapi import OPERATIONS
from tests.support.processes import free_port
from tests.support.servers import served
from tests.support.service_process import serving
from tests.support.users import LANCELOT, log_in, register

README = ROOT / "README.md"
QUICK_START = ROOT / "docs/quick-start.md"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")]
ALL_TEXT = "\n".join(document.read_text() for document in DOCUMENTS)
BASE_URL = "http://127.0.0.1:8000"

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def without_code(document: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


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


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_make_targets_named_in_the_documentation_exist() -> None:
    code = re.findall(r"```.*?```|`[^`\n]+`", ALL_TEXT, re.DOTALL)
    named = {name for piece in code for name in re.findall(r"\bmake ([a-z]+)", piece)}
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"run", "test"} <= named
    assert named <= set(targets)


def test_commands_named_in_the_documentation_exist() -> None:
    word = "[a-z]+(?:-[a-z]+)*"
    pattern = re.compile(rf"(?:^ *|`|/bin/)hourpass ({word})(?: ({word}))?", re.MULTILINE)
    named = set(pattern.findall(ALL_TEXT))
    assert {("serve", ""), ("signing-keys", "revoke")} <= named
    assert {" ".join(words) for words in named if find_command(*words) is None} == set()


def test_the_page_of_the_command_line_has_every_command() -> None:
    """Those of groups too. Former names, which are hidden, stand in the text below the tables."""
    page = (ROOT / "docs/command-line.md").read_text()
    row = re.compile(r"^\| `hourpass ([a-z -]+?)(?: [A-Z][A-Z_ ]*)?` \|", re.MULTILINE)
    in_tables = set(row.findall(page))
    assert in_tables == {" ".join(names) for names, is_hidden in all_commands() if not is_hidden}
    for names, is_hidden in all_commands():
        if is_hidden:
            assert f"`hourpass {names[0]}" in page


def test_the_page_of_the_command_line_has_every_check_of_the_doctor() -> None:
    page = (ROOT / "docs/command-line.md").read_text()
    assert [subject for subject, _ in CHECKS if f"\n| {subject}" not in page] == []


def find_command(name: str, subcommand: str) -> click.Command | None:
    """The second word may be an argument, if the first is no group."""
    command = loaded(main.commands.get(name))
    if subcommand and isinstance(command, click.Group):
        return loaded(command.commands.get(subcommand))
    return command


def all_commands() -> Iterator[tuple[tuple[str, ...], bool]]:
    """The words of each command that is no group, and whether `--help` leaves it out."""
    for name, stub in main.commands.items():
        command = loaded(stub)
        if isinstance(command, click.Group):
            for subname, subcommand in command.commands.items():
                yield (name, subname), stub.hidden or subcommand.hidden
        else:
            yield (name,), stub.hidden


def loaded(command: click.Command | None) -> click.Command | None:
    return command.load() if isinstance(command, LazyCommand) else command


def test_calls_named_in_the_documentation_exist() -> None:
    operations = {tuple(call.split(" ")) for call in OPERATIONS}
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?…\s]*)(?=[`?])", ALL_TEXT))
    assert ("POST", "/token") in named
    assert named - operations == set()


@every_document
def test_relative_links_lead_to_a_file_and_heading(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_both_drawings_of_the_layers_are_the_same() -> None:
    pages = (ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md")
    assert len({block(page, "mermaid", "background_jobs") for page in pages}) == 1


def test_the_changelog_has_an_entry_for_this_version() -> None:
    entry = rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$"
    assert re.search(entry, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_readmes_first_token_with_curl(base_url: str) -> None:
    script = block(README, "bash", "TOKEN=$(").replace(BASE_URL, base_url)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True
    )
    shown = block(README, "json", "user_id")
    assert re.sub(r"\d+", "0", ran.stdout) == re.sub(r"\d+", "0", shown)


def test_the_quick_starts_first_token_with_python(
    base_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(block(QUICK_START, "python", "httpx.Client(").replace(BASE_URL, base_url))
    runpy.run_path(str(script), run_name="__main__")
    shown = block(QUICK_START, "text", "'grace'")
    assert re.sub(r"\d+", "0", capsys.readouterr().out) == re.sub(r"\d+", "0", shown)


def ml_api(directory: Path, hourpass: str) -> ModuleType:
    """The README's protected API, with the Hourpass of that URL."""
    path = directory / "ml_api.py"
    path.write_text(block(README, "python", "Guard(").replace(BASE_URL, hourpass))
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
    lines = block(README, "python", "Guard(").splitlines()
    assert len([line for line in lines if "guard" in line.lower()]) == 3


async def test_the_api_of_the_readme_accepts_valid_tokens_only(
    base_url: str, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=base_url) as hourpass:
        await register(hourpass, LANCELOT)
        token = await log_in(hourpass, LANCELOT)
    module = ml_api(tmp_path, base_url)
    with module.guard, served(module.app) as api:
        async with httpx.AsyncClient(base_url=api) as client:
            statuses = await call_with(client, token)
    assert statuses == [200, 401, 401, 401]


async def test_the_api_of_the_readme_accepts_no_token_while_hourpass_is_unreachable(
    tmp_path: Path,
) -> None:
    module = ml_api(tmp_path, f"http://127.0.0.1:{free_port()}")
    module.guard.timeout = 0.1  # seconds to wait for the first answer
    async with client_of(module.app) as client:
        response = await client.post("/predict", headers={"Authorization": "Bearer a.b.c"})
    assert response.status_code == 503
    module.guard.close()
