"""Log in with a username, a password and, if the user has a second factor, its code."""

from app.context import RequestContext
from app.credentials.second_factors.code_checks import LoginResult
from app.credentials.second_factors.errors import TooManyCodesError
from app.credentials.second_factors.service import HAS_SECOND_FACTOR, SecondFactors
from app.credentials.sessions.service import Sessions
from app.database.engine import begin_write
from app.errors import ApiError
from app.events import Events
from app.groups.user_scopes import HAS_GROUPS, UserScopes, find_user_scopes
from app.login.errors import (
    InvalidCredentialsError,
    InvalidGrantError,
    InvalidScopeError,
    MfaRequiredByFormError,
    MfaRequiredError,
)
from app.login.schemas import IssuedToken, PasswordGrantBody
from app.login.token_issuer import TokenIssuer, TokenRights
from app.security.passwords import Passwords
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import UNFINISHED_LOGIN
from app.security.rate_limits.service import Attempt, LoginLimiter, enforce_limit
from app.tokens.scopes import OFFLINE_ACCESS
from app.users.login_account import (
    LoginAccount,
    find_login_account,
    normalize_username,
    upgrade_password_hash,
)
from app.users.models import UNUSABLE_PASSWORD
from hourpass.scopes import covers, intersection, scope_string, without

_JSON_ERRORS: dict[LoginResult, type[ApiError]] = {
    LoginResult.REFUSED: InvalidCredentialsError,
    LoginResult.WRONG_CODE: InvalidCredentialsError,
    LoginResult.CODE_REQUIRED: MfaRequiredError,
    LoginResult.TOO_MANY_CODES: TooManyCodesError,
}
_FORM_ERRORS: dict[LoginResult, type[ApiError]] = {
    **_JSON_ERRORS,
    LoginResult.REFUSED: InvalidGrantError,
    LoginResult.WRONG_CODE: InvalidGrantError,
    LoginResult.CODE_REQUIRED: MfaRequiredByFormError,
}


class PasswordGrant:
    def __init__(  # noqa: PLR0913 - one for each service that a login calls
        self,
        *,
        limiter: LoginLimiter,
        passwords: Passwords,
        second_factors: SecondFactors,
        sessions: Sessions,
        issuer: TokenIssuer,
        events: Events,
    ) -> None:
        self._limiter = limiter
        self._passwords = passwords
        self._second_factors = second_factors
        self._sessions = sessions
        self._issuer = issuer
        self._events = events

    async def issue(
        self, context: RequestContext, body: PasswordGrantBody, *, by_form: bool
    ) -> IssuedToken:
        """Check the credentials and issue a token.

        Raises InvalidCredentialsError (for a form InvalidGrantError) for an unknown user, a wrong
        password, a disabled user and a wrong code alike; MfaRequiredError (for a form
        MfaRequiredByFormError); InvalidScopeError; TooManyScopesError; TooManyCodesError;
        TooManyAttemptsError; HashingOverloadedError.
        """
        self._passwords.require_capacity()
        session, errors = context.session, _FORM_ERRORS if by_form else _JSON_ERRORS
        password = body.password.get_secret_value()
        async with self._limiter.attempt(context, normalize_username(body.username)) as attempt:
            # Adding or removing a second factor changes the token version. If that happens during
            # the login, the issued token is not valid.
            user = await find_login_account(context, body.username, HAS_SECOND_FACTOR, HAS_GROUPS)
            # The same time for unknown and disabled users. The code is checked only afterwards, so
            # that without the password nobody learns whether the user has a second factor.
            is_right = await self._passwords.verify(password, user.password_hash if user else None)
            accepted = user if user and is_right and user.is_enabled else None
            # Most logins write only an entry of the audit log, which needs no transaction.
            if accepted is None or accepted.has_second_factor or attempt.has_changes:
                await begin_write(session)
            if accepted is None:
                result = LoginResult.REFUSED
            elif accepted.has_second_factor:
                result = await self._second_factors.check(context, accepted.id, body.otp)
            else:
                result = LoginResult.ACCEPTED
            await self._record(context, attempt, user, result)
            if session.in_transaction():
                await session.commit()
        if accepted is None or result is not LoginResult.ACCEPTED:
            raise errors[result]
        if self._passwords.needs_rehash(accepted.password_hash):
            new_hash = await self._passwords.hash(password)
            await upgrade_password_hash(context, accepted, new_hash)
        rights = await self._rights(context, accepted, body)
        created = None
        if OFFLINE_ACCESS in rights.scopes:
            created = await self._sessions.create(
                context,
                accepted,
                scope_string(rights.scopes),
                is_limited=rights.is_limited,
                audience=rights.audience,
            )
            if created is None:  # disabled or deleted a moment ago
                raise errors[LoginResult.REFUSED]
        return await self._issuer.issue(
            context, accepted, rights, created, by_second_factor=accepted.has_second_factor
        )

    async def _rights(
        self, context: RequestContext, user: LoginAccount, body: PasswordGrantBody
    ) -> TokenRights:
        """The rights of the token. Raises InvalidScopeError if none of the requested scopes is
        left, and TooManyScopesError."""
        owned = UserScopes(frozenset(user.granted_scopes()))
        if user.has_groups:
            owned = await find_user_scopes(context, user)
        allowed = self._issuer.allowed_scopes(owned.scopes, by_second_factor=user.has_second_factor)
        requested = frozenset(body.scope.split())
        selected = requested - {OFFLINE_ACCESS}
        scopes = intersection(allowed, selected) if selected else allowed
        scopes = without(scopes, frozenset(body.exclude_scope.split()))
        self._issuer.require_room(scopes, allowed)
        # `allowed` is what this login could have got. It lacks `admin` if that requires a second
        # factor. Such a token is not limited, so that its user can set one up.
        is_limited = bool(body.resource) or not all(covers(scopes, scope) for scope in allowed)
        scopes |= requested & {OFFLINE_ACCESS}
        if requested and not scopes:
            raise InvalidScopeError
        return TokenRights(scopes, owned.groups, is_limited, body.resource)

    async def _record(
        self,
        context: RequestContext,
        attempt: Attempt,
        user: LoginAccount | None,
        result: LoginResult,
    ) -> None:
        """Record the result in the rate limits and the audit log. Raises TooManyAttemptsError."""
        user_id = user.id if user else None
        match result:
            case LoginResult.ACCEPTED:
                context.user_id = user_id
                await attempt.succeed()
            case LoginResult.REFUSED | LoginResult.WRONG_CODE:
                await attempt.fail()
            case LoginResult.CODE_REQUIRED | LoginResult.TOO_MANY_CODES:
                await attempt.refund()  # the password was right, and no code was tried
                await self._count_unfinished(context, user_id)
        if result is LoginResult.CODE_REQUIRED:
            # Not a failed login: clients that ask for the code afterwards get this at each login.
            await self._events.publish(context, "second_factor.required", user_id)
            return
        is_accepted = result is LoginResult.ACCEPTED
        is_about_code = result in (LoginResult.WRONG_CODE, LoginResult.TOO_MANY_CODES)
        reason = {"reason": result.value} if is_about_code else {}
        if result is LoginResult.REFUSED and user and self._is_unsupported(user.password_hash):
            reason = {"reason": "unsupported password hash"}
        new_address = {} if attempt.is_known or not is_accepted else {"new_address": "true"}
        await self._events.publish(
            context, "login", user_id, succeeded=is_accepted, **reason, **new_address
        )

    def _is_unsupported(self, password_hash: str) -> bool:
        return password_hash != UNUSABLE_PASSWORD and not self._passwords.can_verify(password_hash)

    async def _count_unfinished(self, context: RequestContext, user_id: int | None) -> None:
        """Counted separately from logins, so that nobody without the code can use up the owner's
        logins.

        Raises TooManyAttemptsError.
        """
        try:
            await enforce_limit(context.session, "unfinished login", str(user_id), UNFINISHED_LOGIN)
        except TooManyAttemptsError:
            await context.session.commit()  # the refund
            raise
