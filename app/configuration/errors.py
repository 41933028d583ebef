"""Says what is wrong with a setting in one line: its name, and what to write."""

from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
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
    bounds = {type(bound): bound for bound in field.metadata}
    if words := words_of(field):
        return "must be " + " or ".join(sorted(words))
    if Ge in bounds and Le in bounds:
        return f"must be a whole number from {bounds[Ge].ge} to {bounds[Le].le}"
    shortest = bounds[MinLen].min_length if MinLen in bounds else 0
    longest = bounds[MaxLen].max_length if MaxLen in bounds else None
    if longest is not None:
        return f"must have from {shortest} to {longest} characters"
    return f"must be a valid value: {field.description}"


def words_of(field: FieldInfo) -> tuple[str, ...]:
    """The values of a Literal, or of a Literal that may be missing."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()
