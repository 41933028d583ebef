"""The audience of a token, as requested by `resource` (RFC 8707)."""

import re
from typing import Any

from app.tokens.errors import InvalidTargetError
from app.tokens.jwt import MAX_AUDIENCE_LENGTH

# RFC 3986, 4.3: a scheme, and the characters of a URI without `#`.
_ABSOLUTE_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
)
_WITH_AUTHORITY = re.compile(r"https?://[^/?]", re.IGNORECASE)
_HTTP = re.compile(r"https?:", re.IGNORECASE)


def parse_resource(resource: Any) -> str | None:
    """The audience that a token request asks for. None is the setting AUDIENCE. Raises
    InvalidTargetError."""
    if resource is None or resource == "":
        return None
    if (
        not isinstance(resource, str)
        or len(resource) > MAX_AUDIENCE_LENGTH
        or not _ABSOLUTE_URI.fullmatch(resource)
        or (_HTTP.match(resource) and not _WITH_AUTHORITY.match(resource))
    ):
        raise InvalidTargetError
    return resource
