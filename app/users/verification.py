"""Whether a token holds: its text first, then whether its user and its revocation say otherwise."""

from datetime import datetime
from typing import NamedTuple

from app.tokens.live import LiveKeys
from app.tokens.service import Claims
from app.users.service import Identity, Users


class Verified(NamedTuple):
    claims: Claims
    holder: Identity


class Verification:
    def __init__(self, keys: LiveKeys, users: Users) -> None:
        self._keys = keys
        self._users = users

    async def verify(self, token: str, now: datetime) -> Verified:
        """Raises InvalidTokenError."""
        claims = await self._keys.read(token, now)
        return Verified(claims, await self._users.holder(claims))
