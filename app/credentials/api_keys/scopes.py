"""What an API key may do. It never exceeds its owner."""

from collections.abc import Set as AbstractSet

from app.tokens.scopes import EXPLICIT_SCOPES, OFFLINE_ACCESS
from hourpass.scopes import intersection


def scopes_of_key(key_scopes: str | None, owner_scopes: AbstractSet[str]) -> frozenset[str]:
    """The scopes of the access tokens of a key. `key_scopes` is the column of the table."""
    if key_scopes is None:
        return frozenset(owner_scopes) - EXPLICIT_SCOPES - {OFFLINE_ACCESS}
    return intersection(frozenset(key_scopes.split()), owner_scopes)
