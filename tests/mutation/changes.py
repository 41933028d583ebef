"""The small changes that are made to a module, one at a time."""

import ast
import builtins
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

_BOUNDARIES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_UNITS = {
    "milliseconds": "seconds",
    "seconds": "minutes",
    "minutes": "hours",
    "hours": "days",
    "days": "hours",
}
# Methods that return a changed copy of what they are called on.
_REFINING = {
    "casefold",
    "distinct",
    "execution_options",
    "limit",
    "lower",
    "offset",
    "order_by",
    "removeprefix",
    "strip",
    "upper",
    "where",
    "with_for_update",
}
_CONJUNCTIONS = {"where", "and_", "or_"}  # their arguments are conditions
# Classes whose arguments are bounds on input. Other classes need all of their arguments.
_CONSTRAINTS = {"Body", "Cookie", "Field", "Form", "Header", "Path", "Query", "StringConstraints"}
# Functions that cannot be replaced by one of their arguments.
_CONVERSIONS = {"delete", "insert", "select", "update", *dir(builtins)} - {"min", "max", "sorted"}
_PROSE = {
    "description",
    "examples",
    "json_schema_extra",
    "openapi_examples",
    "responses",
    "summary",
    "tags",
    "title",
}
# Calls of these. The last has a type that nobody reads, and a sentence for people.
_UNTESTABLE = ("_log.", "TypeVar(", "cast(", "dataclass(", "PydanticCustomError(")
_LEFT_ALONE = {"returns", "decorator_list", "bases", "msg", "names"}
_LONGEST_WORD = 40
_COLLECTIONS = (ast.JoinedStr, ast.Set, ast.List, ast.Tuple, ast.Dict)  # each element is left out


class Change(NamedTuple):
    """One change. `function` is the qualified name of the function or class that it is in."""

    lines: range
    function: str
    before: str
    after: str
    number: int  # of the equal ones in the function

    def __str__(self) -> str:
        number = f" (number {self.number})" if self.number > 1 else ""
        return f"{self.before} → {self.after or 'nothing'}{number}"


def changes(tree: ast.Module) -> Iterator[Change]:
    """While the caller has a change, the tree contains it."""
    number: Counter[tuple[str, str, str]] = Counter()
    for slot, function in _slots(tree, ""):
        original = slot.get()
        for replacement in _replacements(original, slot):
            first = original.lineno
            if isinstance(original, ast.With | ast.AsyncWith):
                before, after = "with " + ", ".join(map(ast.unparse, original.items)), ""
                last = original.lineno
            else:
                before = ast.unparse(original)
                after = "" if isinstance(replacement, ast.Pass) else ast.unparse(replacement)
                last = original.end_lineno or first
            if before == after:
                continue
            # A copy, because the replacement may be a part of the original.
            changed = ast.copy_location(copy.copy(replacement), original)
            slot.set(ast.fix_missing_locations(changed))
            number[function, before, after] += 1
            yield Change(
                range(first, last + 1), function, before, after, number[function, before, after]
            )
            slot.set(original)


class _Slot(NamedTuple):
    """The place of a node in its parent."""

    parent: ast.AST
    field: str
    position: int | None = None

    def get(self) -> Any:
        value = getattr(self.parent, self.field)
        return value if self.position is None else value[self.position]

    def set(self, node: ast.AST) -> None:
        if self.position is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.position] = node


def _slots(node: ast.AST, function: str) -> Iterator[tuple[_Slot, str]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        function = f"{function}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not _is_left_alone(node, field, child):
                slot = _Slot(node, field, index)
                if isinstance(child, ast.expr | ast.stmt):
                    yield slot, function
                yield from _slots(child, function)


def _is_left_alone(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """What only people or type checkers read, and what would break every test."""
    match child:
        case ast.Import() | ast.ImportFrom() | ast.Name("TYPE_CHECKING") | ast.Expr(ast.Constant()):
            return True  # the last is a docstring
        case ast.Assign(value=ast.Constant(str())) if isinstance(parent, ast.ClassDef):
            return True  # the name of a table, a member of an enumeration
        case ast.Call() | ast.Expr(ast.Call()):
            return ast.unparse(child).startswith(_UNTESTABLE)
        case ast.keyword():
            return child.arg in _PROSE
    if field == "annotation":
        return not any(isinstance(part, ast.Call) for part in ast.walk(child))
    return field in _LEFT_ALONE


def _replacements(node: ast.AST, slot: _Slot) -> Iterator[ast.AST]:
    """One change for each thing that can go wrong: none that another one implies."""
    if isinstance(node, ast.stmt):
        yield from _statements(node, slot)
    else:
        yield from _expressions(node, slot)
    if slot.field == "test" and not any(isinstance(part, ast.NamedExpr) for part in ast.walk(node)):
        if not isinstance(slot.parent, ast.While):  # it would only hang
            yield ast.Constant(value=True)
        yield ast.Constant(value=False)


def _statements(node: ast.stmt, slot: _Slot) -> Iterator[ast.AST]:
    parent = slot.parent
    if isinstance(parent, ast.If) and len(parent.body) == 1 and not parent.orelse:
        return  # as if the condition were false
    match node:
        case ast.Expr(ast.Call() | ast.Await()) | ast.Raise() | ast.Delete() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            if getattr(parent, "name", "") != "__init__":
                yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.With() | ast.AsyncWith() if not any(item.optional_vars for item in node.items):
            yield ast.If(ast.Constant(value=True), node.body, [])


def _expressions(node: ast.AST, slot: _Slot) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - a case per kind
    match node:
        case ast.Compare():
            yield from _comparisons(node, is_condition=slot.field == "test")
        case ast.BoolOp():
            for number in range(len(node.values)):
                yield _without(node, number)
        case ast.BinOp():
            if operator := _OPERATORS.get(type(node.op)):
                yield ast.BinOp(node.left, operator(), node.right)
            elif not isinstance(node.op, ast.Mod):
                yield from (node.left, node.right)
        case ast.UnaryOp(ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant():
            yield from _constants(node, slot)
        case ast.Call():
            yield from _calls(node, is_awaited=isinstance(slot.parent, ast.Await))
        case ast.Tuple() | ast.List() | ast.Set() if _is_collection(node, slot):
            for elements in _each_left_out(node.elts):
                yield _with_elements(node, elements)
        case ast.Dict() if len(node.keys) > 1:
            for items in _each_left_out(list(zip(node.keys, node.values, strict=True))):
                yield ast.Dict([key for key, _ in items], [value for _, value in items])


def _without(node: ast.BoolOp, number: int) -> ast.AST:
    before, left_out, after = node.values[:number], node.values[number], node.values[number + 1 :]
    if any(isinstance(part, ast.NamedExpr) for part in ast.walk(left_out)):
        # It names something that the others need, so it stays, as what decides nothing.
        always: ast.expr = ast.Tuple([left_out], ast.Load())
        neutral = always if isinstance(node.op, ast.And) else ast.UnaryOp(ast.Not(), always)
        return ast.BoolOp(node.op, [*before, neutral, *after])
    rest = [*before, *after]
    return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def _comparisons(node: ast.Compare, *, is_condition: bool) -> Iterator[ast.AST]:
    for number, operator in enumerate(node.ops):
        others = [_BOUNDARIES.get(type(operator))]
        if not is_condition:
            others.append(_OPPOSITES[type(operator)])
        for other in filter(None, others):
            ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)


def _constants(node: ast.Constant, slot: _Slot) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, bytes):
        yield ast.Constant(value + b"x")
    elif isinstance(value, str):
        # Sentences are for people; a word may be a name on the wire.
        is_word = value and " " not in value and len(value) <= _LONGEST_WORD
        if is_word and not isinstance(slot.parent, _COLLECTIONS):
            yield ast.Constant(value + "x")


def _calls(node: ast.Call, *, is_awaited: bool) -> Iterator[ast.AST]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    is_function = name[:1].islower()
    if isinstance(node.func, ast.Attribute):
        if name in _REFINING:
            yield node.func.value
    elif is_function and name not in _CONVERSIONS and not (is_awaited or node.keywords):
        yield from (arg for arg in node.args[:2] if not isinstance(arg, ast.Starred))
    if name in _CONJUNCTIONS and len(node.args) > 1:
        for args in _each_left_out(node.args):
            yield ast.Call(node.func, args, node.keywords)
    for number, keyword in enumerate(node.keywords):
        before, after = node.keywords[:number], node.keywords[number + 1 :]
        is_needed = not (is_function or name in _CONSTRAINTS)
        is_flag = isinstance(getattr(keyword.value, "value", None), bool)  # it is flipped
        if keyword.arg in _UNITS:
            longer = ast.keyword(_UNITS[keyword.arg], keyword.value)
            yield ast.Call(node.func, node.args, [*before, longer, *after])
        elif not (keyword.arg in _PROSE or is_needed or is_flag):
            yield ast.Call(node.func, node.args, [*before, *after])


def _is_collection(node: ast.Tuple | ast.List | ast.Set, slot: _Slot) -> bool:
    """False for tuples of return values, types or assignment targets."""
    if len(node.elts) < 2:
        return False
    if not isinstance(node, ast.Tuple):
        return not isinstance(getattr(node, "ctx", None), ast.Store)
    owner = slot.parent
    return isinstance(owner, ast.Compare | ast.ExceptHandler | ast.Call | ast.keyword)


def _with_elements(node: ast.Tuple | ast.List | ast.Set, elements: list[ast.expr]) -> ast.AST:
    if isinstance(node, ast.Set):
        return ast.Set(elements)
    return type(node)(elements, ast.Load())


def _each_left_out(nodes: list[Any]) -> Iterator[list[Any]]:
    for number in range(len(nodes)):
        yield [*nodes[:number], *nodes[number + 1 :]]
