"""What an API key may do. It never exceeds its owner."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from app.errors import InvalidRequestError
from app.tokens.scopes import EXPLICIT_SCOPES, OFFLINE_ACCESS
from hourpass.scopes import covers, intersection


def scopes_of_key(key_scopes: str | None, owner_scopes: AbstractSet[str]) -> frozenset[str]:
    """The scopes of the access tokens of a key. `key_scopes` is the column of the table."""
    if key_scopes is None:
        return frozenset(owner_scopes) - EXPLICIT_SCOPES - {OFFLINE_ACCESS}
    return intersection(frozenset(key_scopes.split()), owner_scopes)


def require_owned(scopes: Iterable[str], owner_scopes: AbstractSet[str]) -> None:
    """For a new key. Raises InvalidRequestError."""
    _require_covered(scopes, owner_scopes, "The owner of the key does not have {}")


def require_narrower(
    scopes: Iterable[str], key_scopes: str | None, owner_scopes: AbstractSet[str]
) -> None:
    """For a key that has `key_scopes`. Raises InvalidRequestError."""
    own = scopes_of_key(None, owner_scopes) if key_scopes is None else key_scopes.split()
    problem = "The key does not have {}. Create a key with more scopes"
    _require_covered(scopes, own, problem)


def _require_covered(scopes: Iterable[str], allowed: Iterable[str], problem: str) -> None:
    covering = frozenset(allowed)
    for scope in scopes:
        if not covers(covering, scope):
            raise InvalidRequestError.for_field("scopes", problem.format(scope))
