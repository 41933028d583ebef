"""Revokes and introspects tokens (RFC 7009 and RFC 7662)."""

from app.context import RequestContext
from app.credentials.api_keys.fingerprints import hash_key
from app.credentials.api_keys.live_keys import LiveKeys, fingerprint_of
from app.credentials.api_keys.service import ApiKeys
from app.credentials.api_keys.stored_keys import find_key
from app.credentials.sessions.service import Sessions
from app.database.engine import begin_write
from app.events import Events
from app.security.rate_limits.service import LoginLimiter, enforce_limit
from app.token_checks.schemas import Introspection
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokens, NotYetValidError
from app.tokens.revocations.service import Revocations
from app.tokens.scopes import BEARER, INTROSPECTION_SCOPES
from app.users.token_cache import TokenChecker, VerifiedToken
from hourpass.api_keys import is_api_key, is_well_formed
from hourpass.scopes import scope_string


class TokenRevocation:
    def __init__(  # noqa: PLR0913 - one for each service that a revocation calls
        self,
        *,
        checker: TokenChecker,
        sessions: Sessions,
        revocations: Revocations,
        events: Events,
        limiter: LoginLimiter,
        api_keys: ApiKeys,
        live_keys: LiveKeys,
    ) -> None:
        self._checker = checker
        self._sessions = sessions
        self._revocations = revocations
        self._events = events
        self._limiter = limiter
        self._api_keys = api_keys
        self._live_keys = live_keys

    async def revoke(self, context: RequestContext, token: str) -> bool:
        """Revoke an access token, an API key, or a refresh token with its session (RFC 7009, 2.1).

        Nothing but the token is required. Returns False if the token is not valid.

        Revocations of access tokens are limited, since a session can issue any number of them.
        Revoking a session or all tokens of a user is not: to do it again, the user has to log in
        again, and logins are limited. Raises TooManyAttemptsError, and UnavailableError in a flood
        of invented keys.
        """
        if is_api_key(token):
            return await self._revoke_key(context, token)
        try:
            verified = await self._verify(context, token)
        except InvalidTokenError:
            return await self._sessions.revoke_by_token(context, token)
        user_id = verified.user.id
        await begin_write(context.session)
        await enforce_limit(context.session, "revocation", str(user_id), self._limiter.actions)
        await self._revocations.publish(context, f"jti:{verified.claims.jti}")
        await self._events.publish(context, "token.revoke", user_id)
        await context.session.commit()
        return True

    async def _revoke_key(self, context: RequestContext, key: str) -> bool:
        """Also without a token of its owner: anyone who finds a leaked key can revoke it."""
        if not is_well_formed(key):
            return False
        self._live_keys.allow_revocation(fingerprint_of(hash_key(key)))
        found = await find_key(context, key)
        if found is None or found[0].revoked_at:
            return False
        stored, owner = found
        await self._api_keys.revoke(context, owner.id, stored.id)
        return True

    async def _verify(self, context: RequestContext, token: str) -> VerifiedToken:
        """Accepts tokens that become valid later as well. Raises InvalidTokenError."""
        try:
            return await self._checker.check_for_any_audience(context, token)
        except NotYetValidError as error:
            return VerifiedToken.of(error.claims)


class TokenIntrospection:
    def __init__(self, checker: TokenChecker, tokens: AccessTokens) -> None:
        self._checker = checker
        self._tokens = tokens
        self.active = self.inactive = 0  # the number of answers of each kind

    async def introspect(
        self, context: RequestContext, token: str, requester: VerifiedToken
    ) -> Introspection:
        """The claims of an access token, if the requester may read them. Otherwise the token is
        reported as inactive, like an invalid one."""
        introspection = await self._introspect(context, token, requester)
        if introspection.active:
            self.active += 1
        else:
            self.inactive += 1
        return introspection

    async def _introspect(
        self, context: RequestContext, token: str, requester: VerifiedToken
    ) -> Introspection:
        try:
            verified = await self._checker.check_credential(context, token)
        except InvalidTokenError:
            return Introspection(active=False)
        claims, user = verified.claims, verified.user
        is_own = user.id == requester.user.id and not requester.user.api_key_id
        if not is_own and requester.user.scopes.isdisjoint(INTROSPECTION_SCOPES):
            return Introspection(active=False)
        return Introspection(
            active=True,
            scope=scope_string(claims.scopes) or None,
            client_id=claims.client_id,
            username=user.username,
            token_type=BEARER,
            exp=claims.expires_at,
            iat=claims.issued_at,
            auth_time=claims.authenticated_at,
            amr=list(claims.methods) or None,
            sub=claims.subject,
            aud=claims.audience,
            iss=self._tokens.issuer,
            jti=claims.jti,
            sid=claims.session,
            kind=claims.kind,
            key_id=claims.api_key_id,
            networks=list(claims.networks) or None,
        )
