"""Revokes and introspects tokens (RFC 7009, RFC 7662)."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.sessions.service import Sessions
from app.database.engine import begin_write
from app.events import Events
from app.security.rate_limits.service import Throttle, allow
from app.token_checks.schemas import Introspection
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import CLIENT_ID, Tokens
from app.tokens.revocations.service import Revocations
from app.tokens.scopes import BEARER, INTROSPECTION_SCOPES
from app.users.service import Identity
from app.users.token_cache import Verification


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What holders, and services that hold nothing, do with a token afterwards."""

    session: AsyncSession
    tokens: Tokens
    verification: Verification
    sessions: Sessions
    revocations: Revocations
    events: Events
    throttle: Throttle

    async def revoke(self, token: str, now: datetime) -> None:
        """End an access token, or a refresh token with its whole session (RFC 7009, 2.1).

        To have it in hand is the right to end it. One that is not valid is ended already.

        Access tokens are counted, since renewing gives any number of them. What ends a session or
        all of a user's tokens is never refused: each of these needs another login before it, and
        logins are counted. Raises TooManyAttemptsError.
        """
        try:
            verified = await self.verification.verify(token, now)
        except InvalidTokenError:
            await self.sessions.end_by(token, now)
        else:
            user_id, limit = verified.holder.id, self.throttle.actions
            await begin_write(self.session)
            await allow(self.session, "revocation", str(user_id), limit)
            await self.revocations.publish(f"jti:{verified.claims.jti}")
            await self.events.announce("token.revoke", user_id, now)
            await self.session.commit()

    async def introspect(self, token: str, asker: Identity, now: datetime) -> Introspection:
        """What an access token says, to those who may know; to all others it is inactive."""
        try:
            verified = await self.verification.verify(token, now)
        except InvalidTokenError:
            return Introspection(active=False)
        claims, holder = verified.claims, verified.holder
        if holder.id != asker.id and asker.scopes.isdisjoint(INTROSPECTION_SCOPES):
            return Introspection(active=False)
        return Introspection(
            active=True,
            scope=" ".join(sorted(claims.scopes)) or None,
            client_id=CLIENT_ID,
            username=holder.username,
            token_type=BEARER,
            exp=claims.expires_at,
            iat=claims.issued_at,
            auth_time=claims.authenticated_at,
            amr=list(claims.methods) or None,
            sub=claims.subject,
            aud=self.tokens.audience,
            iss=self.tokens.issuer,
            jti=claims.jti,
            sid=claims.session,
        )
