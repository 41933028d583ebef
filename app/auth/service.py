"""Logging in, and what can be done with what a login gave. Knows users, sessions and tokens; none
of them knows it."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.errors import (
    InvalidCredentialsError,
    InvalidGrantError,
    InvalidRefreshTokenError,
)
from app.auth.schemas import (
    BEARER,
    GrantRequest,
    Introspection,
    IssuedToken,
    PasswordGrant,
    RefreshGrant,
)
from app.caller import Caller
from app.database import begin_write
from app.events import Events
from app.passwords import Passwords
from app.revocations.service import Revocations
from app.sessions.service import Renewal, Sessions
from app.throttle.service import Throttle
from app.tokens.errors import InvalidTokenError
from app.tokens.service import CLIENT_ID, Grant, Tokens
from app.users.models import User
from app.users.schemas import fold
from app.users.service import Identity, Users
from app.users.verification import Verification

OFFLINE_ACCESS = "offline_access"
INTROSPECTION_SCOPES = {"admin", "introspect"}


class Login:
    def __init__(  # noqa: PLR0913, PLR0917 - it is where these meet
        self,
        session: AsyncSession,
        users: Users,
        sessions: Sessions,
        passwords: Passwords,
        tokens: Tokens,
        throttle: Throttle,
        events: Events,
        caller: Caller,
    ) -> None:
        self._session = session
        self._throttle = throttle
        self._events = events
        self._caller = caller
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._tokens = tokens

    async def trade(self, request: GrantRequest, now: datetime) -> IssuedToken:
        """A token for a password or for a refresh token.

        Raises InvalidCredentialsError or, if they came by form, InvalidGrantError for an unknown
        user, a wrong password and a disabled user alike; InvalidRefreshTokenError;
        HashingOverloadedError; TooManyAttemptsError.
        """
        if isinstance(request.grant, RefreshGrant):
            if issued := await self._renew(request.grant, now):
                return issued
            raise InvalidRefreshTokenError
        if issued := await self._log_in(request.grant, now):
            return issued
        raise InvalidGrantError if request.by_form else InvalidCredentialsError

    async def _log_in(self, grant: PasswordGrant, now: datetime) -> IssuedToken | None:
        user = await self._authenticate(grant, now)
        if user is None:
            return None
        requested = set(grant.scope.split())
        scopes = user.granted()
        if named := requested - {OFFLINE_ACCESS}:
            scopes &= named
        if OFFLINE_ACCESS not in requested:
            return self._issue(user, " ".join(sorted(scopes)), now)
        scope = " ".join(sorted(scopes | {OFFLINE_ACCESS}))
        opened = await self._sessions.open(user, scope, self._caller, now)
        return self._issue(user, scope, now, opened) if opened else None

    async def _authenticate(self, grant: PasswordGrant, now: datetime) -> User | None:
        """The enabled user whose name and password these are."""
        password = grant.password.get_secret_value()
        name, address = fold(grant.username), self._caller.address
        async with self._throttle.attempt(self._session, name, address, now) as attempt:
            user = await self._users.find(grant.username)
            # Checked for nobody and for the disabled as well: the time taken tells nothing.
            matches = await self._passwords.matches(password, user.password_hash if user else None)
            authenticated = user if user and matches and user.is_enabled else None
            await begin_write(self._session)
            if authenticated:
                self._caller.user_id = authenticated.id
                await attempt.succeed()
            else:
                await attempt.fail()
            await self._events.announce(
                "login", user.id if user else None, now, succeeded=authenticated is not None
            )
            await self._session.commit()
        if authenticated and self._passwords.needs_rehash(authenticated.password_hash):
            await self._users.upgrade_hash(authenticated, password)
        return authenticated

    async def _renew(self, grant: RefreshGrant, now: datetime) -> IssuedToken | None:
        renewal = await self._sessions.renew(grant.refresh_token.get_secret_value(), now)
        if renewal is None:
            return None
        return self._issue(renewal.user, renewal.session.scope, now, renewal)

    def _issue(
        self, user: User, scope: str, now: datetime, renewal: Renewal | None = None
    ) -> IssuedToken:
        self._caller.user_id = user.id
        grant = Grant(
            subject=str(user.id),
            username=user.username,
            epoch=user.token_epoch,
            scope=scope,
            authenticated_at=renewal.session.created_at if renewal else now,
            session=renewal.session.id if renewal else None,
        )
        token = self._tokens.issue(grant, now)
        return IssuedToken(
            token=token,
            access_token=token,
            expires_in=int(self._tokens.lifetime.total_seconds()),
            refresh_token=renewal.refresh_token if renewal else None,
            scope=scope or None,
        )


class IssuedTokens:
    """What holders, and services that hold nothing, do with a token afterwards."""

    def __init__(  # noqa: PLR0913, PLR0917 - as above
        self,
        session: AsyncSession,
        tokens: Tokens,
        verification: Verification,
        sessions: Sessions,
        revocations: Revocations,
        events: Events,
    ) -> None:
        self._session = session
        self._events = events
        self._tokens = tokens
        self._verification = verification
        self._sessions = sessions
        self._revocations = revocations

    async def revoke(self, token: str, now: datetime) -> None:
        """End an access token, or a refresh token with its whole session (RFC 7009, 2.1).

        To have it in hand is the right to end it. One that is not valid is ended already.
        """
        try:
            verified = await self._verification.verify(token, now)
        except InvalidTokenError:
            await self._sessions.end_by(token, now)
        else:
            await begin_write(self._session)
            await self._revocations.publish(f"jti:{verified.claims.jti}", now)
            await self._events.announce("token.revoke", verified.holder.id, now)
            await self._session.commit()

    async def introspect(self, token: str, asker: Identity, now: datetime) -> Introspection:
        """What an access token says, to those who may know; to all others it is inactive."""
        try:
            verified = await self._verification.verify(token, now)
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
            sub=claims.subject,
            aud=self._tokens.audience,
            iss=self._tokens.issuer,
            jti=claims.jti,
            sid=claims.session,
        )
