"""The members of JSON objects, queries and forms, with their names as they were written.

Only what all parsers read alike is accepted.
"""

import json
import re
from collections.abc import Callable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed lacks it
from mmap import mmap
from typing import Any
from urllib.parse import unquote_to_bytes

from hourpass.errors import InvalidRequestError

MAX_MEMBERS = 1_000  # of a JSON object, a form or a query; forms of Starlette have as many
MAX_NAME_LENGTH = 1_000  # of members; and the bytes of a value that may be the name of a model
MAX_PART_HEADER_BYTES = 4_096

NO_TEXT = b""  # the value of a file, and of a text that parsers could read in several ways

Content = bytes | mmap
# A member's decoded name, the name as it was written, and the value.
Member = tuple[str, str, Any]

_PARAMETER = re.compile(
    r'[ \t]*;[ \t]*([a-z0-9_-]+)=(?:"([^"\\]*)"|([^\s";,]+))[ \t]*', re.IGNORECASE
)
UTF_8 = frozenset({"utf-8", "utf8"})
# In these, the bytes of a name are the same: it is ASCII.
_LIKE_ASCII = UTF_8 | {"us-ascii", "iso-8859-1"}

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


def parse_parameters(text: str) -> dict[str, str]:
    """The parameters of a media type, such as `; charset=utf-8`. Raises InvalidRequestError."""
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


def json_members(text: str) -> Iterator[Member]:
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


def form_pairs(text: bytes) -> Iterator[Member]:
    """The members of a query or an urlencoded form. Some parsers split at a semicolon too, so a
    name beside one counts as written in another way."""
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


def multipart_parts(
    content: Content, boundary: bytes, is_read: Callable[[str], bool]
) -> Iterator[Member]:
    """The parts of a form as browsers and HTTP libraries write it: no text before the first part
    or after the last one, line ends are CRLF, and the boundary stands between parts only. All
    parsers read such a form alike."""
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
        text = content[head_end + 4 : end].decode(errors="replace") if is_name else NO_TEXT
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
    charset = parse_parameters(f";{parameters}" if parameters else "").get("charset", "utf-8")
    encoding = headers.get("content-transfer-encoding", "8bit").lower()
    is_text = (
        not found[3]  # no file
        and media_type.strip().lower() == "text/plain"
        and charset.lower() in _LIKE_ASCII
        and encoding in ("7bit", "8bit", "binary")
    )
    return name, is_text
