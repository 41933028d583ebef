"""Cursor pagination in the order of ids: rows that are added or removed between two requests do
not repeat or hide others."""

from collections.abc import Sequence
from typing import Annotated, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.database.ids import parse_id

NextCursor = Annotated[
    str | None,
    Field(
        description="Send it as `cursor` to get the next page. Null on the last page.",
        examples=["10"],
    ),
]


class Row(Protocol):
    @property
    def id(self) -> int: ...


Rows = TypeVar("Rows", bound=Row)


def _check_cursor(cursor: str) -> str:
    if cursor and parse_id(cursor) is None:
        raise PydanticCustomError("cursor", "Must be the next_cursor of a page")
    return cursor


class PageQuery(BaseModel):
    """Query parameters of every list. Unknown ones are rejected."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = Field(
        None,
        pattern="^([1-9][0-9]{0,18})?$",
        description="`next_cursor` of the previous page. Empty or omitted for the first page.",
    )
    limit: int = Field(50, ge=1, le=200, description="Maximum number of entries.")

    @property
    def position(self) -> int | None:
        """The last id of the previous page."""
        return int(self.cursor) if self.cursor else None

    def paginate(self, found: Sequence[Rows]) -> tuple[Sequence[Rows], str | None]:
        """The page and its `next_cursor`. `found` has up to `limit` + 1 rows."""
        page = found[: self.limit]
        return page, str(page[-1].id) if len(found) > self.limit else None
