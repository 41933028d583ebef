"""Issue the next access token for a refresh token (RFC 6749, 6)."""

from app.context import RequestContext
from app.credentials.second_factors.service import SecondFactors
from app.credentials.sessions.models import Session
from app.credentials.sessions.service import Sessions
from app.groups.user_scopes import find_user_scopes
from app.login.errors import InvalidRefreshTokenError
from app.login.schemas import IssuedToken, RefreshGrantBody
from app.login.token_issuer import TokenIssuer, TokenRights
from app.tokens.scopes import OFFLINE_ACCESS
from hourpass.scopes import intersection


class RefreshGrant:
    def __init__(
        self, sessions: Sessions, second_factors: SecondFactors, issuer: TokenIssuer
    ) -> None:
        self._sessions = sessions
        self._second_factors = second_factors
        self._issuer = issuer

    async def issue(self, context: RequestContext, body: RefreshGrantBody) -> IssuedToken:
        """Raises InvalidRefreshTokenError, InvalidTargetError and TooManyAttemptsError."""
        refreshed = await self._sessions.refresh(
            context, body.refresh_token.get_secret_value(), body.resource
        )
        if refreshed is None:
            raise InvalidRefreshTokenError
        # Adding or removing a second factor revokes all sessions. So if the user has one now, this
        # session was created with it.
        by_second_factor = await self._second_factors.is_enabled(context, refreshed.user.id)
        session = refreshed.session
        owned = await find_user_scopes(context, refreshed.user)
        scopes = self._issuer.allowed_scopes(
            _scopes_of(session, owned.scopes), by_second_factor=by_second_factor
        )
        rights = TokenRights(scopes, owned.groups, session.is_limited, session.audience)
        return await self._issuer.issue(
            context, refreshed.user, rights, refreshed, by_second_factor=by_second_factor
        )


def _scopes_of(session: Session, granted: frozenset[str]) -> set[str]:
    """What the session got at its login, as far as the user may still do it: a group of the user
    may have been narrowed since."""
    scopes = frozenset(session.scope.split())
    return {*intersection(scopes - {OFFLINE_ACCESS}, granted), *(scopes & {OFFLINE_ACCESS})}
