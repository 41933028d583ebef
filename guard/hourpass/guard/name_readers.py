"""Finds the name of a model in a JSON body, a form or a query, as OpenAI's API has it.

The model server reads the request again, with another parser. So a request is refused if two
parsers could find different names in it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from unicodedata import normalize

from hourpass.errors import ContentTooLargeError, InvalidRequestError
from hourpass.guard.body_formats import (
    MAX_MEMBERS,
    MAX_NAME_LENGTH,
    UTF_8,
    Content,
    Member,
    form_pairs,
    json_members,
    multipart_parts,
    parse_parameters,
)

MAX_BODY_BYTES = 64 * 2**20
MAX_NAMES = 16  # of models in one request

_MEDIA_TYPE = re.compile(r"([a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+)((?:[ \t]*;.*)?)", re.IGNORECASE)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")


class RequestHead(NamedTuple):
    content_types: Sequence[str]  # the values of each header of that name
    content_encodings: Sequence[str]
    query: bytes

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> "RequestHead":
        """`headers` as in ASGI."""
        values: dict[bytes, list[str]] = {b"content-type": [], b"content-encoding": []}
        for name, value in headers:
            if name in values:
                values[name].append(value.decode("latin-1").strip(" \t"))
        return cls(values[b"content-type"], values[b"content-encoding"], query)

    def media_type(self) -> tuple[str, dict[str, str]]:
        """The media type in lower case, and its parameters. Raises InvalidRequestError."""
        if any(value.lower() != "identity" for value in self.content_encodings):
            raise InvalidRequestError("The body is compressed")
        if len(self.content_types) != 1 or not (
            found := _MEDIA_TYPE.fullmatch(self.content_types[0])
        ):
            raise InvalidRequestError("The content type is missing or malformed")
        media_type, parameters = found[1].lower(), parse_parameters(found[2])
        if parameters.get("charset", "utf-8").lower() not in UTF_8:
            raise InvalidRequestError("The body is not UTF-8")
        return media_type, parameters


class NameReader:
    """Reads the member `name`, a text, and `others`, which are optional and may be lists.

    Raises InvalidRequestError.
    """

    reads_body = True

    def __init__(self, name: str, *others: str, max_body: int = MAX_BODY_BYTES) -> None:
        if max_body <= 0:
            raise ValueError("max_body is a number of bytes")
        self.members = (name, *others)
        if not all(map(fold, self.members)) or len(set(map(fold, self.members))) != len(others) + 1:
            raise ValueError("The members need different names")
        self.max_body = max_body

    def names(self, head: RequestHead, content: Content) -> list[str]:
        return self._checked(self._members(head, content))

    def _members(self, head: RequestHead, content: Content) -> Iterable[Member]:
        raise NotImplementedError

    def _checked(self, found: Iterable[Member]) -> list[str]:
        members = {fold(name): name for name in self.members}
        values: dict[str, Any] = {}
        for number, (name, written, value) in enumerate(found):
            if number >= MAX_MEMBERS:
                raise InvalidRequestError(f"The request has more than {MAX_MEMBERS} members")
            if len(name) > MAX_NAME_LENGTH:
                raise InvalidRequestError("The name of a member is too long")
            member = members.get(fold(name))
            if member is None:
                continue
            if written != member or member in values:
                raise InvalidRequestError(f"The request has several members like {member}")
            values[member] = value
        return self._flattened(values)

    def _flattened(self, values: dict[str, Any]) -> list[str]:
        first, *others = self.members
        names: list[Any] = [values.get(first)]
        for member in others:
            value = values.get(member)
            names += value if isinstance(value, list) else [] if value is None else [value]
        if len(names) > MAX_NAMES:
            raise InvalidRequestError(f"The request names more than {MAX_NAMES} models")
        if not all(isinstance(name, str) for name in names):
            raise InvalidRequestError(f"The member {first} is missing, or a name is not a text")
        return names


class _JsonReader(NameReader):
    def _members(self, head: RequestHead, content: Content) -> Iterable[Member]:
        media_type, _ = head.media_type()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise InvalidRequestError("The content type is not application/json")
        try:
            yield from json_members(bytes(content).decode())
        except (ValueError, RecursionError):
            raise InvalidRequestError("The body is not a JSON object in UTF-8") from None


class FormReader(NameReader):
    def _members(self, head: RequestHead, content: Content) -> Iterable[Member]:
        media_type, parameters = head.media_type()
        if media_type == "application/x-www-form-urlencoded":
            return form_pairs(bytes(content))
        if media_type != "multipart/form-data":
            raise InvalidRequestError("The content type is not that of a form")
        boundary = parameters.get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            raise InvalidRequestError("The boundary is missing or malformed")
        return multipart_parts(content, boundary.encode(), self._is_read)

    def names_in(self, head: RequestHead, items: Iterable[tuple[str, Any]]) -> list[str]:
        """The names in a form that FastAPI has parsed. Its files are not texts."""
        head.media_type()
        return self._checked((name, name, value) for name, value in items)

    def _is_read(self, name: str) -> bool:
        return fold(name) in map(fold, self.members)


class _QueryReader(NameReader):
    reads_body = False

    def _members(self, head: RequestHead, content: Content) -> Iterable[Member]:
        return form_pairs(head.query)


def from_json(name: str, *others: str, max_body: int = MAX_BODY_BYTES) -> NameReader:
    """The text in the member `name` of a JSON body. `others` are optional members with more names,
    such as `models` of a fallback list: a text or a list of texts each.

    A body that is longer than `max_body` is refused with 413.
    """
    return _JsonReader(name, *others, max_body=max_body)


def from_form(name: str, *others: str, max_body: int = MAX_BODY_BYTES) -> NameReader:
    """The field `name` of a form, multipart or urlencoded. Otherwise like from_json()."""
    return FormReader(name, *others, max_body=max_body)


def from_query(name: str, *others: str) -> NameReader:
    """The parameter `name` of the query, also of a websocket's."""
    return _QueryReader(name, *others)


def check_length(content_length: str | None, limit: int) -> None:
    """Raises ContentTooLargeError, before the body is read."""
    if content_length and content_length.isdecimal() and int(content_length[:20]) > limit:
        raise ContentTooLargeError


def fold(name: str) -> str:
    """Equal for names that a parser could take for the same: of another case, `model[]`, `mo-del`,
    or one that ends with NUL."""
    name = re.split(r"[\0\[]", name, maxsplit=1)[0]
    if name.isascii() and name.isalnum():
        return name.lower()
    return "".join(filter(str.isalnum, normalize("NFKC", name).casefold()))
