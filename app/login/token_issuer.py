"""Issues access tokens to users who logged in. API keys are exchanged elsewhere
(credentials/api_keys/exchange.py)."""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from app.context import RequestContext
from app.credentials.sessions.service import RefreshedSession
from app.login.errors import TooManyScopesError
from app.login.schemas import IssuedToken
from app.settings import Settings
from app.tokens.jwt import MAX_TOKEN_BYTES, AccessTokenRequest, AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.token_size import longest_token
from app.users.login_account import LoginAccount
from app.users.models import User
from hourpass.scopes import scope_string

MFA_AMR = ("pwd", "otp", "mfa")  # RFC 8176, 2; a recovery code is a one-time password


class TokenRights(NamedTuple):
    """What a token allows. `groups` are as in UserScopes."""

    scopes: frozenset[str]
    groups: tuple[str, ...] = ()
    is_limited: bool = False
    audience: str | None = None


class TokenIssuer:
    def __init__(self, tokens: AccessTokens, keys: KeyRefresher, settings: Settings) -> None:
        self._tokens = tokens
        self._keys = keys
        self._settings = settings
        self._requires_second_factor = settings.admin_second_factor == "required"

    def allowed_scopes(self, scopes: AbstractSet[str], *, by_second_factor: bool) -> frozenset[str]:
        """Removes `admin` if it requires a second factor (ADMIN_SECOND_FACTOR) and there was
        none."""
        is_admin_allowed = by_second_factor or not self._requires_second_factor
        return frozenset(scopes if is_admin_allowed else scopes - {"admin"})

    def require_room(self, scopes: AbstractSet[str], allowed: AbstractSet[str]) -> None:
        """Before a session is created with these scopes. The `allowed` ones of the user were
        checked when they were granted. Raises TooManyScopesError."""
        is_longer = len(scope_string(scopes)) > len(scope_string(allowed))
        if is_longer and longest_token(self._settings, scopes) > MAX_TOKEN_BYTES:
            raise TooManyScopesError

    async def issue(
        self,
        context: RequestContext,
        user: LoginAccount | User,
        rights: TokenRights,
        session: RefreshedSession | None,
        *,
        by_second_factor: bool,
    ) -> IssuedToken:
        await self._keys.catch_up()  # a revoked key must not sign
        context.user_id = user.id
        request = AccessTokenRequest(
            subject=str(user.id),
            username=user.username,
            token_version=user.token_version,
            scope=scope_string(rights.scopes),
            authenticated_at=context.now,
            methods=MFA_AMR if by_second_factor else (),
            audience=rights.audience,
            is_limited=rights.is_limited,
            groups=rights.groups,
        )
        if session:
            created_at = session.session.created_at
            request = replace(request, session=session.session.id, authenticated_at=created_at)
        token = self._tokens.encode(request, context.now)
        return IssuedToken(
            token=token,
            access_token=token,
            expires_in=int(self._tokens.lifetime.total_seconds()),
            refresh_token=session.refresh_token if session else None,
            scope=request.scope or None,
        )
