"""Issue an access token to a service account (RFC 6749, 4.4)."""

from app.context import RequestContext
from app.credentials.api_keys.exchange import KeyExchange
from app.login.errors import InvalidClientError, InvalidScopeError
from app.login.schemas import ClientCredentialsBody, IssuedToken
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import SERVICE
from app.users.login_account import normalize_username
from app.users.token_cache import require_network
from hourpass.scopes import scope_string


class ClientCredentialsGrant:
    """`client_id` is the name of the service account, and `client_secret` is one of its API keys.
    There is no refresh token (RFC 6749, 4.4.3)."""

    def __init__(self, exchange: KeyExchange) -> None:
        self._exchange = exchange

    async def issue(self, context: RequestContext, body: ClientCredentialsBody) -> IssuedToken:
        """Raises InvalidClientError and InvalidScopeError."""
        if body.client_id is None or body.client_secret is None:
            raise InvalidClientError
        scope = body.scope.strip() or None
        try:
            token, verified = await self._exchange.exchange(
                context, body.client_secret.get_secret_value(), body.resource, scope
            )
            # Here the caller is the program itself, so its address counts.
            require_network(context, verified)
        except InvalidTokenError:
            raise InvalidClientError from None
        claims = verified.claims
        is_its_name = normalize_username(body.client_id) == normalize_username(claims.username)
        if claims.kind != SERVICE or not is_its_name:
            raise InvalidClientError
        context.user_id = verified.user.id
        if scope and not claims.scopes:
            raise InvalidScopeError
        return IssuedToken(
            token=token,
            access_token=token,
            expires_in=claims.expires_at - int(context.now.timestamp()),
            scope=scope_string(claims.scopes) or None,
        )
