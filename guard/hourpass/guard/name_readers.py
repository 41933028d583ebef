"""Finds the name of a model in a JSON body, a form or a query, as OpenAI's API has it.

The model server reads the request again, with another parser. So a request is refused if two
parsers could find different names in it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed lacks it
from mmap import mmap
from typing import Any, NamedTuple
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from hourpass.errors import ContentTooLargeError, InvalidRequestError

MAX_BODY_BYTES = 64 * 2**20
MAX_MEMBERS = 1_000  # of a JSON object, a form or a query; forms of Starlette have as many
MAX_NAMES = 16  # of models in one request
MAX_NAME_LENGTH = 1_000  # of members; and the bytes of a value that may be the name of a model
MAX_PART_HEADER_BYTES = 4_096

Content = bytes | mmap

_MEDIA_TYPE = re.compile(r"([a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+)((?:[ \t]*;.*)?)", re.IGNORECASE)
_PARAMETER = re.compile(
    r'[ \t]*;[ \t]*([a-z0-9_-]+)=(?:"([^"\\]*)"|([^\s";,]+))[ \t]*', re.IGNORECASE
)
_UTF_8 = frozenset({"utf-8", "utf8"})
# In these, the bytes of a name are the same: it is ASCII.
_LIKE_ASCII = _UTF_8 | {"us-ascii", "iso-8859-1"}
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

# What browsers and HTTP libraries write. A parser may take the first or the last of two names, or
# `name*`; and it may end a quoted text at an escaped quotation mark.
_DISPOSITION = re.compile(
    r"""form-data;[ ]?name=(?:"([^"\\]*)"|([\w.\[\]-]+))"""
    r"""((?:;[ ]?filename=(?:"(?:[^"\\]|\\(?!"))*"|[^\s";\\]+))?"""
    r"""(?:;[ ]?filename\*=[^\s";\\]+)?)""",
    re.ASCII,
)
_HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


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
        """In lower case, with its parameters. Raises InvalidRequestError."""
        if any(value.lower() != "identity" for value in self.content_encodings):
            raise InvalidRequestError("The body is compressed")
        if len(self.content_types) != 1 or not (
            found := _MEDIA_TYPE.fullmatch(self.content_types[0])
        ):
            raise InvalidRequestError("The content type is missing or malformed")
        media_type, parameters = found[1].lower(), _parameters(found[2])
        if parameters.get("charset", "utf-8").lower() not in _UTF_8:
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

    def _members(self, head: RequestHead, content: Content) -> Iterable[tuple[str, str, Any]]:
        """Each member's decoded name, the name as it was written, and the value."""
        raise NotImplementedError

    def _checked(self, found: Iterable[tuple[str, str, Any]]) -> list[str]:
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
    def _members(self, head: RequestHead, content: Content) -> Iterable[tuple[str, str, Any]]:
        media_type, _ = head.media_type()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise InvalidRequestError("The content type is not application/json")
        try:
            yield from _json_members(bytes(content).decode())
        except (ValueError, RecursionError):
            raise InvalidRequestError("The body is not a JSON object in UTF-8") from None


class FormReader(NameReader):
    def _members(self, head: RequestHead, content: Content) -> Iterable[tuple[str, str, Any]]:
        media_type, parameters = head.media_type()
        if media_type == "application/x-www-form-urlencoded":
            return _pairs(bytes(content))
        if media_type != "multipart/form-data":
            raise InvalidRequestError("The content type is not that of a form")
        boundary = parameters.get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            raise InvalidRequestError("The boundary is missing or malformed")
        return _parts(content, boundary.encode(), self._is_read)

    def names_in(self, head: RequestHead, items: Iterable[tuple[str, Any]]) -> list[str]:
        """Of a form that FastAPI has parsed. Its files are no texts."""
        head.media_type()
        return self._checked((name, name, value) for name, value in items)

    def _is_read(self, name: str) -> bool:
        return fold(name) in map(fold, self.members)


class _QueryReader(NameReader):
    reads_body = False

    def _members(self, head: RequestHead, content: Content) -> Iterable[tuple[str, str, Any]]:
        return _pairs(head.query)


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


def _parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if not found or found[1].lower() in parameters:
            raise InvalidRequestError("The content type is malformed")
        parameters[found[1].lower()] = found[2] if found[2] is not None else found[3]
        position = found.end()
    return parameters


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


_decode_value = json.JSONDecoder(parse_constant=_no_constant).raw_decode


def _json_members(text: str) -> Iterator[tuple[str, str, Any]]:
    """Raises ValueError and RecursionError."""
    position = _skip(text, 0)
    position = _skip(text, _expect("{", text, position))
    while not text.startswith("}", position):
        start = _expect('"', text, position)
        name, position = scanstring(text, start)
        written = text[start : position - 1]
        position = _skip(text, _expect(":", text, _skip(text, position)))
        value, position = _decode_value(text, position)
        yield name, written, value
        position = _skip(text, position)
        if text.startswith("}", position):
            break
        position = _skip(text, _expect(",", text, position))
        if text.startswith("}", position):
            raise ValueError("a comma before the end")
    if _skip(text, position + 1) != len(text):
        raise ValueError("more than one value")


def _skip(text: str, position: int) -> int:
    found = _WHITESPACE.match(text, position)
    return found.end() if found else position


def _expect(character: str, text: str, position: int) -> int:
    if not text.startswith(character, position):
        raise ValueError("another character is expected")
    return position + 1


def _pairs(text: bytes) -> Iterator[tuple[str, str, str]]:
    """Of a query or an urlencoded form. Some parsers split at a semicolon too, so the name is not
    as it should be written if there is one."""
    if text.count(b"&") + text.count(b";") >= MAX_MEMBERS:
        raise InvalidRequestError(f"The request has more than {MAX_MEMBERS} members")
    for pair in text.split(b"&"):
        pieces = pair.split(b";")
        for piece in pieces:
            name, _, value = piece.partition(b"=")
            written = name.decode("latin-1") if len(pieces) == 1 else ";"
            yield _unquoted(name), written, _unquoted(value[: MAX_NAME_LENGTH + 1])


def _unquoted(text: bytes) -> str:
    """Malformed, and so no valid name, if it is too long. A malformed escape or UTF-8 makes a text
    that is no valid name either."""
    if len(text) > MAX_NAME_LENGTH:
        return "*" * (MAX_NAME_LENGTH + 1)
    decoded = unquote_to_bytes(text.replace(b"+", b" ")).decode(errors="replace")
    return f"*{decoded}" if _BAD_ESCAPE.search(text) else decoded


def _parts(
    content: Content, boundary: bytes, is_read: Callable[[str], bool]
) -> Iterator[tuple[str, str, str | None]]:
    """Of a form as browsers and HTTP libraries write it: no text before the first part or after the
    last one, line ends are CRLF, and the boundary stands between parts only. All parsers agree."""
    delimiter = b"--" + boundary
    start = len(delimiter)
    if content[:start] != delimiter:
        raise InvalidRequestError("The form does not begin with its boundary")
    while content[start : start + 2] == b"\r\n":
        head_end = content.find(b"\r\n\r\n", start, start + MAX_PART_HEADER_BYTES)
        end = content.find(delimiter, head_end + 4) - 2
        if head_end < 0 or end < head_end + 4 or content[end : end + 2] != b"\r\n":
            raise InvalidRequestError("The form is malformed, or a header is too long")
        name, is_text = _part_head(content[start + 2 : head_end].decode("latin-1"))
        if name.lower() == "_charset_":  # the encoding of all other fields, for some parsers
            raise InvalidRequestError("The form is not UTF-8")
        # Only what is read is copied.
        is_short = end - head_end - 4 <= MAX_NAME_LENGTH
        is_name = is_text and is_short and is_read(name)
        text = content[head_end + 4 : end].decode(errors="replace") if is_name else None
        yield name, name, text
        start = end + 2 + len(delimiter)
    if content[start : start + 5] not in (b"--", b"--\r\n"):
        raise InvalidRequestError("The form does not end with its boundary")


def _part_head(text: str) -> tuple[str, bool]:
    """The part's name, and whether it is a text that every parser reads alike."""
    headers: dict[str, str] = {}
    for line in text.split("\r\n"):
        found = _HEADER.fullmatch(line)
        if not found or found[1].lower() in headers:
            raise InvalidRequestError("A part of the form has a malformed header")
        headers[found[1].lower()] = found[2]
    found = _DISPOSITION.fullmatch(headers.get("content-disposition", ""))
    if not found:
        raise InvalidRequestError("A part of the form has no name, or a malformed one")
    name = found[1] if found[1] is not None else found[2]
    media_type, _, parameters = headers.get("content-type", "text/plain").partition(";")
    charset = _parameters(f";{parameters}" if parameters else "").get("charset", "utf-8")
    encoding = headers.get("content-transfer-encoding", "8bit").lower()
    is_text = (
        not found[3]  # no file
        and media_type.strip().lower() == "text/plain"
        and charset.lower() in _LIKE_ASCII
        and encoding in ("7bit", "8bit", "binary")
    )
    return name, is_text
