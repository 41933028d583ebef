"""Rooms stand on floors, and an import goes to a lower floor or stays in its own room.

Imports inside functions and for type checkers count too: each is a thing one has to know.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import ROOT

# Letters split a floor: 1 is the shared ground, 2 what tokens are and how they end early.
FLOORS = {
    "7": {"main"},
    "6": {"cli", "express", "fast_lane", "tables"},
    "5": {
        "admin",
        "auth",
        "first_admin",
        "health",
        "housekeeping",
        "invitations",
        "listeners",
        "own_account",
        "password_resets",
    },
    "4": {"audit", "mail", "second_factors", "sessions"},
    "3": {"users"},
    "2b": {"revocations"},
    "2a": {"codes", "throttle", "tokens"},
    "1e": {"server"},
    "1d": {"protocol"},
    "1c": {"request_parser"},
    "1b": {"batch", "connections", "direct", "events", "exchange", "schema", "transport"},
    "1a": {"caller", "chores", "database", "docs", "error_responses", "logs", "passwords", "vault"},
    "0b": {"shortcut"},
    "0a": {"bodies", "errors", "paging", "settings", "sqlite", "turns"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

APP = ROOT / "app"
MODULES = sorted(path.relative_to(APP).as_posix() for path in APP.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The dotted name of everything that a file imports; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    return module.partition("/")[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    # app/__init__.py itself holds nothing but the version.
    return {name[1] for name in names if name[0] == "app" and name[1:] != ["__version__"]}


def test_the_table_lists_every_room_and_no_other() -> None:
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(FLOOR_OF)


def test_no_room_stands_on_two_floors() -> None:
    assert len(FLOOR_OF) == sum(len(rooms) for rooms in FLOORS.values())


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_or_stay_in_the_room(module: str) -> None:
    room = room_of(module)
    others = rooms_imported(APP / module) - {room}
    # app/__init__.py is below every floor.
    assert {other for other in others if FLOOR_OF[other] >= FLOOR_OF.get(room, "")} == set()


def test_the_tables_room_imports_every_models_module() -> None:
    models = {f"app.{path.parent.name}.models" for path in APP.glob("*/models.py")}
    assert models <= set(imported(APP / "tables.py"))


@pytest.mark.parametrize(
    ("module", "unknown"),
    [
        pytest.param("errors.py", {"fastapi", "starlette"}, id="refusals know no framework"),
        pytest.param(
            "tokens/service.py",
            {"fastapi", "starlette", "sqlalchemy"},
            id="reading a token needs neither framework nor database",
        ),
    ],
)
def test_pure_code_stays_pure(module: str, unknown: set[str]) -> None:
    assert {name.split(".")[0] for name in imported(APP / module)} & unknown == set()


def test_what_other_services_install_never_imports_the_app() -> None:
    for path in (ROOT / "guard").rglob("*.py"):
        assert "app" not in {name.split(".")[0] for name in imported(path)}, path
