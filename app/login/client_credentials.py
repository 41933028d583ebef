"""Issue an access token to a service account (RFC 6749, 4.4)."""

from app.context import RequestContext
from app.credentials.api_keys.exchange import KeyExchange
from app.login.errors import InvalidClientError
from app.login.schemas import ClientCredentialsBody, IssuedToken
from app.login.token_exchange import token_of_key
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import SERVICE
from app.users.login_account import normalize_username
from app.users.token_cache import require_network


class ClientCredentialsGrant:
    """`client_id` is the name of the service account, and `client_secret` is one of its API keys.
    There is no refresh token (RFC 6749, 4.4.3)."""

    def __init__(self, exchange: KeyExchange) -> None:
        self._exchange = exchange

    async def issue(self, context: RequestContext, body: ClientCredentialsBody) -> IssuedToken:
        """Raises InvalidClientError and InvalidScopeError."""
        if body.client_id is None or body.client_secret is None:
            raise InvalidClientError
        key = body.client_secret.get_secret_value()
        try:
            token, verified = await self._exchange.exchange(
                context, key, body.resource, body.scope.strip() or None
            )
            # Here the caller is the program itself, so its address counts.
            require_network(context, verified)
        except InvalidTokenError:
            raise InvalidClientError from None
        claims = verified.claims
        is_its_name = normalize_username(body.client_id) == normalize_username(claims.username)
        if claims.kind != SERVICE or not is_its_name:
            raise InvalidClientError
        return token_of_key(context, token, verified, body.scope)
