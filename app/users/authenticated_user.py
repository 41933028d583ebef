"""The user of a valid access token."""

import re
from typing import NamedTuple

from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import Claims

_USER_ID = re.compile(r"[1-9][0-9]{0,17}")  # fits into 64 bits


class AuthenticatedUser(NamedTuple):
    id: int
    username: str
    scopes: frozenset[str]  # of the token

    @classmethod
    def of(cls, claims: Claims) -> "AuthenticatedUser":
        """Raises InvalidTokenError if the token's subject is not a user."""
        if not _USER_ID.fullmatch(claims.subject):
            raise InvalidTokenError
        return cls(int(claims.subject), claims.username, claims.scopes)
