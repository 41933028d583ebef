"""API keys, service accounts and groups of an Issuer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hourpass.api_keys import generate_key, id_of
from hourpass.scopes import intersection

if TYPE_CHECKING:
    from hourpass.testing.issuer import Issuer


@dataclass(slots=True)
class Group:
    """A group of users, who have its scopes. The version changes when the group is narrowed."""

    id: int
    name: str
    scopes: frozenset[str]
    version: int = 1

    @property
    def claim(self) -> str:
        return f"{self.id}.{self.version}"


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A user of kind "service". Its tokens and keys have all of its scopes unless you name some."""

    issuer: "Issuer"
    id: int
    username: str
    scopes: frozenset[str]

    def token(self, *scopes: str, **claims: Any) -> str:
        """Like Issuer.token()."""
        return self.issuer.token(*self._scopes(scopes), **self._owner(), **claims)

    def api_key(self, *scopes: str, **options: Any) -> str:
        """Like Issuer.api_key()."""
        return self.issuer.api_key(*self._scopes(scopes), **self._owner(), **options)

    def _scopes(self, scopes: Iterable[str]) -> frozenset[str]:
        return intersection(self.scopes, frozenset(scopes)) if scopes else self.scopes

    def _owner(self) -> dict[str, Any]:
        return {"user_id": self.id, "username": self.username, "kind": "service"}


@dataclass(slots=True)
class IssuedKey:
    """An API key and its owner, as an issuer stores them."""

    scopes: frozenset[str]
    groups: list[Group]
    networks: list[str]
    expires_at: float
    claims: dict[str, Any]  # of the owner
    key: str = field(default_factory=generate_key)
    version: int = 1
    is_suspended: bool = False
    # The last token for each audience, and what it was issued for.
    tokens: dict[str, tuple[tuple[object, ...], str]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return id_of(self.key)

    @property
    def session(self) -> str:
        return f"{self.id}.{self.version}"

    @property
    def fingerprint(self) -> str:
        """Published when the key is new or works again, so that guards forget its refusal."""
        return f"key:{sha256(self.key.encode()).digest()[:8].hex()}"
