"""Reads values of records. Files of other systems are not trusted: a value may have any type."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.operations.imports.errors import ImportFileError, LeftOutError, Reason
from app.operations.imports.hashes import to_storable

_TRUE = frozenset(("1", "t", "true", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "n", "no"))
_SEPARATORS = re.compile(r"[\s,;]+")
_MILLISECONDS = 10**11  # larger numbers are not seconds before the year 5138
_MAX_SECRETS_BYTES = 64 * 1024

# RFC 4226 asks for 128 bits. What is longer than 40 bytes does not fit in the table.
_TOTP_BYTES = range(16, 41)


def text(value: Any) -> str | None:
    """Returns None for a missing or empty value."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    raise LeftOutError(Reason.RECORD, "A value is not a text")


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise LeftOutError(Reason.RECORD, "A value is neither true nor false")


def moment(value: Any) -> datetime:
    """Read ISO 8601, or seconds or milliseconds since 1970. The default time zone is UTC."""
    try:
        if isinstance(value, str) and not value.isdecimal():
            found = datetime.fromisoformat(value)
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)
            return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS else number, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise LeftOutError(Reason.RECORD, "A value is not a date")


def names(value: Any) -> tuple[str, ...]:
    """Read a list, or a text with spaces or commas between the names."""
    if isinstance(value, str):
        return tuple(filter(None, _SEPARATORS.split(value)))
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise LeftOutError(Reason.RECORD, "A value is not a list of names")


def totp_secret(value: Any) -> bytes:
    """Decode base32."""
    compact = str(value).replace(" ", "").replace("-", "").rstrip("=").upper()
    try:
        return checked_totp_secret(base64.b32decode(compact + "=" * (-len(compact) % 8)))
    except ValueError:
        raise LeftOutError(Reason.SECOND_FACTOR, "The secret is not in base32") from None


def checked_totp_secret(secret: bytes) -> bytes:
    if len(secret) not in _TOTP_BYTES:
        rule = f"The secret must have {_TOTP_BYTES[0]} to {_TOTP_BYTES[-1]} bytes"
        raise LeftOutError(Reason.SECOND_FACTOR, rule)
    return secret


def password_hash(value: Any) -> str | None:
    found = text(value)
    return None if found is None else to_storable(found)


# The fields of a user, with the function that reads each.
FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "username": text,
    "email": text,
    "email_verified": flag,
    "is_enabled": flag,
    "is_admin": flag,
    "scopes": names,
    "roles": names,
    "password_hash": password_hash,
    "totp_secret": totp_secret,
    "created_at": moment,
}


def read_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a user, without those that have no value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "":
            continue
        try:
            found[name] = FIELDS[name](value)
        except LeftOutError as error:
            if error.reason is Reason.SECOND_FACTOR:
                found["second_factor_fault"] = error
                continue
            raise LeftOutError(error.reason, f"{name}: {error.detail}") from None
    return found


def members(value: Any) -> dict[str, Any]:
    """Read an object, or a text that contains one as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None  # not an object
    if isinstance(value, dict):
        return value
    raise LeftOutError(Reason.RECORD, "A member is not an object")


def base64_bytes(value: Any) -> bytes:
    """Decode base64 in either alphabet, with or without padding. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 - as for damaged base64
    plain = value.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def read_parameters(path: Path, names_: tuple[str, ...]) -> dict[str, str]:
    """The values of lines such as `name: value`, as in a YAML file or in Firebase's console. Raises
    ImportFileError if one is missing or occurs twice."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SECRETS_BYTES + 1).decode()
    except (OSError, ValueError):
        raise ImportFileError(f"Cannot read {path}.") from None
    if len(content) > _MAX_SECRETS_BYTES:
        raise ImportFileError(f"{path} is longer than 64 KiB.")
    found: dict[str, str] = {}
    for name in names_:
        line = re.compile(
            rf"^[ \t]*[\"']?{name}[\"']?[ \t]*:[ \t]*(.+?)[ \t]*,?[ \t]*$", re.MULTILINE
        )
        values = line.findall(content.replace("\r\n", "\n"))
        if len(values) != 1:
            raise ImportFileError(f"{path} must have one line `{name}: …`.")
        value = re.sub(r"\s+#.*$", "", values[0])
        found[name] = value[1:-1] if value[0] == value[-1] and value[0] in "\"'" else value
    return found
