"""Ids of rows: 64-bit numbers from 1. Imported users may have ids with all 19 digits."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

MAX_ID = 2**63 - 1

# Python and Pydantic also read `1_0`, `+1`, `01`, ` 1`, `1.0` and digits of other scripts. With one
# spelling for each number, a proxy's rule for a path applies to all of them.
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)")


def parse_id(text: str) -> int | None:
    """None if it is not an id, or another spelling of one."""
    if len(text) > len(str(MAX_ID)) or not _DECIMAL.fullmatch(text):
        return None
    id_ = int(text)
    return id_ if 1 <= id_ <= MAX_ID else None


def _check_spelling(value: Any) -> Any:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise PydanticKnownError("int_parsing")
    return value


DecimalInt = Annotated[int, BeforeValidator(_check_spelling)]  # of a path or query
Id = Annotated[DecimalInt, Field(ge=1, le=MAX_ID)]
