"""The rules for names of groups."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.users.login_account import normalize_username as normalize_name
from app.users.visible_text import is_visible

__all__ = ["GroupName", "is_valid_name", "normalize_name"]

MAX_LENGTH = 64

# Letters and digits of all scripts. With a letter or digit first, no name is `.` or `..`, which
# clients remove from paths.
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")


def is_valid_name(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and is_visible(name)
        and len(normalize_name(name)) <= MAX_LENGTH
    )


def _check_name(name: str) -> str:
    if not is_valid_name(name):
        rule = "Must have 1 to 64 letters, digits, -, _ and ., and begin with a letter or digit"
        raise PydanticCustomError("group_name", rule)
    return name


GroupName = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH), AfterValidator(_check_name)]
