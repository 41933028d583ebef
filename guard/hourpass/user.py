from dataclasses import dataclass
from datetime import datetime

from hourpass.scopes import covers


@dataclass(frozen=True, slots=True)
class User:
    """The user of a token, with the token's scopes and expiry.

    `kind` is "person" or "service". `key_id` is the id of the API key that the token comes from, if
    any.
    """

    id: int
    username: str
    scopes: frozenset[str]
    expires_at: datetime
    kind: str = "person"
    key_id: str | None = None

    def may(self, scope: str) -> bool:
        """Whether the token's scopes cover one such as `predict:fraud-v3`."""
        return covers(self.scopes, scope)
