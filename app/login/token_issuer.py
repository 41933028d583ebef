"""Issues access tokens for all grants."""

from dataclasses import replace

from app.context import RequestContext
from app.credentials.sessions.service import RefreshedSession
from app.groups.service import Grants
from app.login.schemas import IssuedToken
from app.settings import Settings
from app.tokens.jwt import AccessTokenRequest, AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.scopes import scope_string
from app.users.login_account import LoginAccount
from app.users.models import User

MFA_AMR = ("pwd", "otp", "mfa")  # RFC 8176, 2; a recovery code is a one-time password


class TokenIssuer:
    def __init__(self, tokens: AccessTokens, keys: KeyRefresher, settings: Settings) -> None:
        self._tokens = tokens
        self._keys = keys
        self._requires_second_factor = settings.admin_second_factor == "required"

    def allowed_scopes(self, scopes: set[str], *, by_second_factor: bool) -> set[str]:
        """Removes `admin` if it requires a second factor (ADMIN_SECOND_FACTOR) and there was
        none."""
        is_admin_allowed = by_second_factor or not self._requires_second_factor
        return scopes if is_admin_allowed else scopes - {"admin"}

    async def issue(
        self,
        context: RequestContext,
        user: LoginAccount | User,
        grants: Grants,
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
            scope=scope_string(grants.scopes),
            authenticated_at=context.now,
            methods=MFA_AMR if by_second_factor else (),
            groups=grants.groups,
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
