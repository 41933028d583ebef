"""The user of a valid access token."""

from typing import NamedTuple

from app.database.ids import parse_id
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import Claims


class AuthenticatedUser(NamedTuple):
    id: int
    username: str
    scopes: frozenset[str]  # of the token
    kind: str
    api_key_id: str | None  # the key that the token comes from, if any

    @classmethod
    def of(cls, claims: Claims) -> "AuthenticatedUser":
        """Raises InvalidTokenError if the token's subject is not a user."""
        id_ = parse_id(claims.subject)
        if id_ is None:
            raise InvalidTokenError
        return cls(id_, claims.username, claims.scopes, claims.kind, claims.api_key_id)
