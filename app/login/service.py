"""Logging in, and what can be done with what a login gave. Knows users, sessions and tokens; none
of them knows it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Caller
from app.credentials.second_factors.errors import TooManyCodesError
from app.credentials.second_factors.service import IS_ENABLED, Answer, SecondFactors
from app.credentials.sessions.service import Renewal, Sessions
from app.database.engine import begin_write
from app.events import Events
from app.login.errors import (
    InvalidCredentialsError,
    InvalidGrantError,
    InvalidRefreshTokenError,
    MfaRequiredByFormError,
    MfaRequiredError,
)
from app.login.schemas import GrantRequest, IssuedToken, PasswordGrant, RefreshGrant
from app.security.passwords import Passwords
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.rates import UNFINISHED_LOGIN
from app.security.rate_limits.service import Throttle, allow
from app.settings import Settings
from app.tokens.jwt import Grant, Tokens
from app.tokens.key_refresher import LiveKeys
from app.tokens.scopes import OFFLINE_ACCESS, scope_string
from app.users.models import User
from app.users.schemas import fold
from app.users.service import Account, Users

BY_SECOND_FACTOR = ("pwd", "otp", "mfa")  # RFC 8176, 2; a recovery code is a one-time password


@dataclass(frozen=True, slots=True)
class Login:
    session: AsyncSession
    users: Users
    sessions: Sessions
    second_factors: SecondFactors
    passwords: Passwords
    tokens: Tokens
    keys: LiveKeys
    throttle: Throttle
    events: Events
    caller: Caller
    settings: Settings

    async def trade(self, request: GrantRequest, now: datetime) -> IssuedToken:
        """A token for a password or for a refresh token.

        Raises InvalidCredentialsError or, if they came by form, InvalidGrantError for an unknown
        user, a wrong password, a disabled user and a wrong code alike; MfaRequiredError or
        MfaRequiredByFormError; TooManyCodesError; TooManyAttemptsError;
        InvalidRefreshTokenError; HashingOverloadedError.
        """
        if isinstance(request.grant, RefreshGrant):
            if issued := await self._renew(request.grant, now):
                return issued
            raise InvalidRefreshTokenError
        if issued := await self._log_in(request.grant, now, by_form=request.by_form):
            return issued
        raise InvalidGrantError if request.by_form else InvalidCredentialsError

    async def _log_in(
        self, grant: PasswordGrant, now: datetime, *, by_form: bool
    ) -> IssuedToken | None:
        user, answer = await self._authenticate(grant, now)
        if answer is Answer.MISSING:
            raise MfaRequiredByFormError if by_form else MfaRequiredError
        if answer is Answer.BLOCKED:
            raise TooManyCodesError
        if user is None:
            return None
        requested = set(grant.scope.split())
        by_second_factor = answer is Answer.RIGHT
        scopes = self._allowed(user.granted(), by_second_factor=by_second_factor)
        scopes -= set(grant.exclude_scope.split())
        if named := requested - {OFFLINE_ACCESS}:
            scopes &= named
        opened = None
        if OFFLINE_ACCESS in requested:
            scopes |= {OFFLINE_ACCESS}
            opened = await self.sessions.open(user, scope_string(scopes), self.caller, now)
            if opened is None:
                return None
        await self.keys.catch_up()  # a revoked key must not sign
        return self._issue(user, scopes, now, opened, by_second_factor=by_second_factor)

    async def _authenticate(
        self, grant: PasswordGrant, now: datetime
    ) -> tuple[Account | None, Answer | None]:
        """The enabled user whose name, password and code these are, and what came of the code if
        it came to that."""
        password = grant.password.get_secret_value()
        name, address = fold(grant.username), self.caller.address
        async with self.throttle.attempt(self.session, name, address) as attempt:
            # Whoever gets or loses a second factor meanwhile begins a new epoch, in which a token
            # for what is known here does not count.
            user, has_factor = await self.users.account(grant.username, IS_ENABLED)
            # Checked for nobody and for the disabled as well: the time taken tells nothing. A code
            # is asked for only after the right password, so that nobody else can tell who needs it.
            matches = await self.passwords.matches(password, user.password_hash if user else None)
            known = user if user and matches and user.is_enabled else None
            # Most logins write one line of the audit log, which needs no transaction around it.
            if known is None or has_factor or attempt.leaves_traces:
                await begin_write(self.session)
            answer = None
            if known:
                answer = Answer.UNNEEDED
                if has_factor:
                    answer = await self.second_factors.check(known.id, grant.otp, now)
            authenticated = known if answer in (Answer.UNNEEDED, Answer.RIGHT) else None
            subject = user.id if user else None
            if authenticated:
                self.caller.user_id = authenticated.id
                await attempt.succeed()
            elif answer in (None, Answer.WRONG):
                await attempt.fail()
            else:
                await attempt.take_back()  # the password was right, and no code was tried
                await self._count_unfinished(known, now)
            if answer is Answer.MISSING:
                # Neither a login nor a failed one: people who type the code second come by here.
                await self.events.announce("second_factor.demand", subject, now)
            else:
                succeeded = authenticated is not None
                reason = {"reason": answer.value} if answer and not succeeded else {}
                await self.events.announce("login", subject, now, succeeded=succeeded, **reason)
            if self.session.in_transaction():
                await self.session.commit()
        if authenticated and self.passwords.needs_rehash(authenticated.password_hash):
            await self.users.upgrade_hash(authenticated, password)
        return authenticated, answer

    async def _count_unfinished(self, user: Account | None, now: datetime) -> None:
        """A count of its own: without the code nobody may use up the owner's logins.

        Raises TooManyAttemptsError.
        """
        assert user
        try:
            await allow(self.session, "unfinished login", str(user.id), UNFINISHED_LOGIN)
        except TooManyAttemptsError:
            await self.session.commit()  # what was taken back
            raise

    async def _renew(self, grant: RefreshGrant, now: datetime) -> IssuedToken | None:
        renewal = await self.sessions.renew(grant.refresh_token.get_secret_value(), now)
        if renewal is None:
            return None
        # Whoever gets a second factor, or loses it, begins a new epoch without sessions. So the
        # session was opened with one if its user has one.
        by_second_factor = await self.second_factors.is_enabled(renewal.user.id)
        scopes = self._allowed(
            set(renewal.session.scope.split()), by_second_factor=by_second_factor
        )
        await self.keys.catch_up()
        return self._issue(renewal.user, scopes, now, renewal, by_second_factor=by_second_factor)

    def _allowed(self, scopes: set[str], *, by_second_factor: bool) -> set[str]:
        required = self.settings.admin_second_factor == "required"
        return scopes - {"admin"} if required and not by_second_factor else scopes

    def _issue(
        self,
        user: User | Account,
        scopes: set[str],
        now: datetime,
        renewal: Renewal | None,
        *,
        by_second_factor: bool,
    ) -> IssuedToken:
        self.caller.user_id = user.id
        grant = Grant(
            subject=str(user.id),
            username=user.username,
            epoch=user.token_epoch,
            scope=scope_string(scopes),
            authenticated_at=renewal.session.created_at if renewal else now,
            session=renewal.session.id if renewal else None,
            methods=BY_SECOND_FACTOR if by_second_factor else (),
        )
        token = self.tokens.issue(grant, now)
        return IssuedToken(
            token=token,
            access_token=token,
            expires_in=int(self.tokens.lifetime.total_seconds()),
            refresh_token=renewal.refresh_token if renewal else None,
            scope=grant.scope or None,
        )
