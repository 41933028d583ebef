"""Whether the token or API key with which an open request or call began is still valid.

An API key outlives its tokens. So a request that began with a key goes on with the key's next
token, unless the key was revoked or lost a scope.
"""

from typing import Protocol

from hourpass.api_keys import is_api_key
from hourpass.errors import GuardError, InvalidTokenError, ServiceUnavailableError
from hourpass.guard.refusals import Refusal
from hourpass.guard.token_verifier import Verified


class Validity(Protocol):
    """The methods of a guard that are used here."""

    async def averify(self, token: str, ip_address: str | None = None) -> Verified: ...
    def has_expired(self, verified: Verified) -> bool: ...
    def is_revoked(self, verified: Verified) -> bool: ...
    def is_due_for_renewal(self, verified: Verified) -> bool: ...
    def refusal(self, error: GuardError, accept: str = "") -> Refusal: ...


class OpenCredential:
    """Call `find_error()` from time to time, and then `renew()` if `can_be_renewed`."""

    def __init__(
        self, guard: Validity, credential: str, verified: Verified, ip_address: str | None
    ) -> None:
        self._guard = guard
        self._key = credential if is_api_key(credential) else None
        self._verified = verified
        self._ip_address = ip_address

    def find_error(self, *, can_expire: bool) -> InvalidTokenError | None:
        """Why the token is no longer valid, as far as the guard knows. An outage of the service
        is no reason, because then the guard cannot tell."""
        if self._guard.is_revoked(self._verified):
            return InvalidTokenError("The token was revoked")
        if can_expire and self._guard.has_expired(self._verified):
            return InvalidTokenError("The token has expired")
        return None

    @property
    def can_be_renewed(self) -> bool:
        """Whether renew() may find another token: of a key, in the last fifth of its token's life
        or after a revocation."""
        return self._key is not None and (
            self._guard.is_due_for_renewal(self._verified) or self._guard.is_revoked(self._verified)
        )

    async def renew(self, *, can_expire: bool) -> InvalidTokenError | None:
        """Like find_error(), after asking for the key's current token."""
        assert self._key
        try:
            verified = await self._guard.averify(self._key, self._ip_address)
        except ServiceUnavailableError:
            return self.find_error(can_expire=can_expire)
        except InvalidTokenError:
            return InvalidTokenError("The API key is no longer valid")
        if not verified.user.scopes >= self._verified.user.scopes:
            return InvalidTokenError("The API key has lost a scope")
        self._verified = verified
        return None
