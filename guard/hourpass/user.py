from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class User:
    """The user of a token, with the token's scopes and expiry."""

    id: int
    username: str
    scopes: frozenset[str]
    expires_at: datetime
