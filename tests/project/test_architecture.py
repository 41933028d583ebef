"""Each folder has a layer. A module imports only from lower layers, or from its own folder.

Imports inside functions and for type checkers count too: readers have to follow them as well.
"""

import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.support.imported_names import imported

LAYERS = {
    15: {"main"},
    14: {"cli", "startup"},
    13: {"monitoring", "operations"},
    12: {"login", "services", "tables"},
    11: {"accounts", "maintenance", "subscribers", "token_checks"},
    10: {"audit", "credentials", "mail", "webhooks"},
    9: {"groups"},
    8: {"users"},
    7: {"tokens"},
    6: {"security"},
    5: {"events", "server"},
    4: {"http"},
    3: {"context"},
    2: {"database", "ip_addresses", "outbound_http"},
    1: {"background_jobs", "settings", "standard_streams"},
    0: {"configuration", "errors"},
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}

# Folders inside folders, from the lowest to the highest. The modules beside them are above them.
# `None`: they do not import one another.
SUBFOLDERS: dict[str, tuple[str, ...] | None] = {
    "accounts": None,
    "credentials": ("sessions", "second_factors", "api_keys"),
    "maintenance": None,
    "monitoring": None,
    "operations": None,
    "security": None,
    "tokens": ("signing_keys", "revocations"),
}

APP = ROOT / "app"
PATHS = sorted(APP.rglob("*.py"))


def module_at(path: Path) -> tuple[str, ...]:
    """As its parts below app/, without `__init__`."""
    parts = path.relative_to(APP).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_at(path): path for path in PATHS}


@cache
def modules_imported(module: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """The modules of app/ that a module imports, without app/__init__.py, which all may import."""
    found = set()
    for name in imported(MODULES[module]):
        parts = tuple(name.split("."))
        if parts[0] == "app":
            found.add(parts[1:] if parts[1:] in MODULES else parts[1:-1])
    return frozenset(found - {()})


def modules_reached(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    reached: set[tuple[str, ...]] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting.extend(modules_imported(current))
    return reached


def test_the_table_lists_every_folder_and_module_once() -> None:
    assert {module[0] for module in MODULES if module} == set(LAYER_OF)
    assert len(LAYER_OF) == sum(len(names) for names in LAYERS.values())
    groups = {
        module[:2] for module, path in MODULES.items() if len(path.relative_to(APP).parts) > 2
    }
    assert {group for group, _ in groups} == set(SUBFOLDERS)
    for group, order in SUBFOLDERS.items():
        if order:
            assert {folder for name, folder in groups if name == group} == set(order)


def test_imports_go_down_or_stay_in_the_folder() -> None:
    wrong = {
        f"{'/'.join(module)} imports {'/'.join(other)}"
        for module in MODULES
        for other in modules_imported(module)
        if other[0] != module[0] and LAYER_OF[other[0]] >= LAYER_OF[module[0]]
    }
    assert wrong == set()


def test_subfolders_import_lower_ones_only() -> None:
    for module, path in MODULES.items():
        group, *others = path.relative_to(APP).parts
        if len(others) < 2:
            continue
        order = SUBFOLDERS[group]
        lower = order[: order.index(module[1])] if order else ()
        siblings = {other[1] for other in modules_imported(module) if other[0] == group} - {
            module[1]
        }
        assert siblings <= set(lower), module


def test_no_imports_form_a_circle(subtests: pytest.Subtests) -> None:
    """Of folders, of their subfolders, and of single modules."""
    for depth in (1, 2, 3, 4):
        with subtests.test(f"{depth} deep"):
            graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
            for module in MODULES:
                others = {other[:depth] for other in modules_imported(module)} - {module[:depth]}
                graph.setdefault(module[:depth], set()).update(others)
            TopologicalSorter(graph).prepare()  # raises CycleError


def test_tables_imports_every_models_module() -> None:
    models = {module for module in MODULES if module[-1:] == ("models",)}
    with_tables = {*models, ("database", "job_lock")}
    assert len(models) >= 10
    assert with_tables <= modules_imported(("tables",))


@pytest.mark.parametrize(
    ("module", "unknown"),
    [
        pytest.param("errors", {"fastapi", "starlette"}, id="errors know no framework"),
        pytest.param(
            "tokens/jwt",
            {"fastapi", "starlette", "sqlalchemy"},
            id="reading a token needs neither framework nor database",
        ),
        pytest.param(
            "tokens/signing_keys/keys",
            {"fastapi", "starlette", "sqlalchemy"},
            id="signing needs neither framework nor database",
        ),
    ],
)
def test_pure_code_stays_pure(module: str, unknown: set[str]) -> None:
    """Nor does anything that it imports."""
    for reached in modules_reached(tuple(module.split("/"))):
        found = {name.split(".")[0] for name in imported(MODULES[reached])}
        assert found & unknown == set(), reached


def test_the_drawing_in_contributing_shows_these_layers() -> None:
    (drawing,) = re.findall(
        r"^```mermaid\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    chains = re.findall(r"^        (?!direction)(.*)$", drawing, re.MULTILINE)
    nodes = [node for chain in chains for node in chain.split(" --> ")]
    # A node is a name alone, or a name of its own for the folders in its label.
    labels = [re.sub(r'^\w+\["(.*)"\]$', r"\1", node).replace("<br>", " ") for node in nodes]
    assert [set(label.split(", ")) for label in labels] == list(LAYERS.values())


def test_tests_share_only_what_is_in_modules_without_tests() -> None:
    for path in (*(ROOT / "tests").rglob("*.py"), *(ROOT / "guard/tests").rglob("*.py")):
        for name in imported(path):
            assert not re.match(r"tests\.\w+\.(test|check)_", name), path


def test_the_tests_of_the_guard_need_no_app() -> None:
    """Nor do the modules of tests/support/ that they import."""
    reached = {*(ROOT / "guard/tests").glob("*.py")}
    assert len(reached) > 10
    waiting = list(reached)
    while waiting:
        path = waiting.pop()
        names = {*imported(path)}
        if "typing.TYPE_CHECKING" not in names:  # with it, the import of app is for types alone
            assert "app" not in {name.split(".")[0] for name in names}, path
        # `from tests.support import guards` names a module, `from … .guards import x` its member.
        ours = {name for name in names if name.startswith("tests.support.")}
        ours |= {name.rpartition(".")[0] for name in ours}
        paths = {ROOT / f"{name.replace('.', '/')}.py" for name in ours}
        found = {path for path in paths if path.exists()} - reached
        reached |= found
        waiting += found


def test_the_guard_never_imports_the_app() -> None:
    for path in (ROOT / "guard").rglob("*.py"):
        assert "app" not in {name.split(".")[0] for name in imported(path)}, path
