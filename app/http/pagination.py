"""Long lists come in pages: in the order of ids, each page beginning where the last one ended, so
that what is added or removed meanwhile neither repeats nor hides anything else."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Row(Protocol):
    @property
    def id(self) -> int: ...


Rows = TypeVar("Rows", bound=Row)


class PageQuery(BaseModel):
    """What can be asked of every list. Anything that is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(
        None,
        pattern="^[1-9][0-9]{0,17}$",
        description="`next_cursor` of the page before this one.",
    )
    limit: int = Field(50, ge=1, le=200)

    @property
    def position(self) -> int | None:
        """The id that the page before this one ended with."""
        return int(self.cursor) if self.cursor else None

    def paginate(self, found: Sequence[Rows]) -> tuple[Sequence[Rows], str | None]:
        """The page and its `next_cursor`, if `limit` + 1 rows were asked for."""
        page = found[: self.limit]
        return page, str(page[-1].id) if len(found) > self.limit else None
