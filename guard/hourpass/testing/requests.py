"""The requests of guards to an Issuer, and its responses."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


class Pieces:
    """A body."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RequestUrl:
    path: str
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a guard, with the attributes of a request of httpx that matter here."""

    url: RequestUrl
    headers: dict[str, str]
    method: str = "GET"
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The issuer's response. A response of httpx or httpx2 works as well."""

    status_code: int
    headers: dict[str, str] = field(default_factory=dict)
    stream: Pieces = field(default_factory=lambda: Pieces([]))

    @classmethod
    def of_json(cls, members: dict[str, Any], status: int = 200) -> "Response":
        return cls(status, stream=Pieces([json.dumps(members).encode()]))
