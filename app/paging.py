"""Long lists come in pages: in the order of ids, each page beginning where the last one ended, so
that what is added or removed meanwhile neither repeats nor hides anything else."""

from typing import Annotated

from fastapi import Query

Cursor = Annotated[
    str | None,
    Query(pattern="^[1-9][0-9]{0,17}$", description="`next_cursor` of the page before this one."),
]
Limit = Annotated[int, Query(ge=1, le=200)]
