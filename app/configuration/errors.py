"""Says what is wrong with a setting in one line: its name, and what to write."""

from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


def describe_error(problem: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    if problem["type"] == "value_error":
        rule = problem["msg"].removeprefix("Value error, ")
    else:
        rule = _rule_of(fields[name])
    return f"{name.upper()} {rule}"


def _rule_of(field: FieldInfo) -> str:
    """What a value must be, from the type and the bounds of its field."""
    if words := words_of(field):
        return "must be " + " or ".join(sorted(words))
    smallest, largest = _bound(field, "ge"), _bound(field, "le")
    if smallest is not None and largest is not None:
        return f"must be a whole number from {smallest} to {largest}"
    longest = _bound(field, "max_length")
    if longest is not None:
        return f"must have from {_bound(field, 'min_length') or 0} to {longest} characters"
    return f"must be a valid value: {field.description}"


def _bound(field: FieldInfo, name: str) -> int | None:
    bounds = (getattr(bound, name, None) for bound in field.metadata)
    return next((bound for bound in bounds if bound is not None), None)


def words_of(field: FieldInfo) -> tuple[str, ...]:
    """The values of a Literal, or of a Literal that may be missing."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()
