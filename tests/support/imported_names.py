"""What a file imports."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def imported(path: Path) -> frozenset[str]:
    """The dotted name of everything that a file imports; `from a import b` gives a.b."""
    names: set[str] = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below it, without their expressions: most nodes are in those, and no import is."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)
