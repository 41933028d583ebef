"""The small changes that a mutation run makes (tests/mutation/)."""

import ast
from textwrap import dedent

import pytest

from app.settings import ROOT
from tests.mutation import equivalents
from tests.mutation.changes import changes


def made_of(source: str) -> list[str]:
    tree = ast.parse(dedent(source))
    before = ast.unparse(tree)
    made = []
    for change in changes(tree):
        assert ast.unparse(tree) != before, change
        compile(tree, "changed", "exec")
        made.append(str(change))
    assert ast.unparse(tree) == before
    return made


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("x = a < b", ["a < b → a <= b", "a < b → a >= b"]),
        ("x = a or b", ["a or b → b", "a or b → a"]),
        ("x = timedelta(days=1)", ["timedelta(days=1) → timedelta(hours=1)", "1 → 2"]),
        (
            "x = query.where(a, b)",
            [
                "query.where(a, b) → query",
                "query.where(a, b) → query.where(b)",
                "query.where(a, b) → query.where(a)",
            ],
        ),
        ("def f():\n  a()\n  raise E", ["a() → nothing", "raise E → nothing"]),
        ("x = {a, b}", ["{a, b} → {b}", "{a, b} → {a}"]),
        ("with lock:\n  a = b", ["with lock → nothing"]),
        ("if is_good:\n  raise E", ["is_good → True", "is_good → False"]),
        ("x = 1\ny = 1", ["1 → 2", "1 → 2 (number 2)"]),
    ],
)
def test_one_thing_is_changed_at_a_time(source: str, made: list[str]) -> None:
    assert made_of(source) == made


def test_what_only_people_read_is_left_alone() -> None:
    source = '''
        """A module."""
        import logging
        _log = logging.getLogger(name)
        class Model(Base):
            __tablename__ = "models"
            size: int
        def f() -> "int":
            """A function."""
            _log.info("It began", extra={"a": 1})
    '''
    assert made_of(source) == []


def test_a_condition_that_names_something_stays_and_decides_nothing() -> None:
    whole = "not isinstance((name := a.get(b)), str) or name.isspace()"
    neutral = "not (not isinstance((name := a.get(b)), str),)"
    made = made_of(f"x = {whole}")
    assert f"{whole} → {neutral} or name.isspace()" in made
    assert f"{whole} → name.isspace()" not in made


def test_the_lines_of_a_part_are_its_own_after_the_whole_has_been_changed() -> None:
    tree = ast.parse("x = (\n  a > 1\n  and b > 2\n)")
    lines = {change.before: change.lines for change in changes(tree)}
    assert lines["a > 1"] == range(2, 3)
    assert lines["b > 2"] == range(3, 4)


def test_each_change_that_is_listed_as_equivalent_can_still_be_made() -> None:
    """Else code was renamed or removed, and its entries must follow."""
    listed = equivalents.read()
    existing = {
        equivalents.Key(module, change.function, str(change))
        for module in {key.module for key in listed}
        for change in changes(ast.parse((ROOT / module).read_text("utf-8")))
    }
    assert listed.keys() - existing == set()
