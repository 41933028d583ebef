"""Exchange an API key for an access token (RFC 8693)."""

from app.context import RequestContext
from app.credentials.api_keys.exchange import KeyExchange
from app.errors import InvalidFormError
from app.login.errors import InvalidScopeError, InvalidSubjectTokenError
from app.login.schemas import ISSUED_TYPE, IssuedToken, TokenExchangeBody
from app.tokens.errors import InvalidTargetError, InvalidTokenError
from app.users.token_cache import VerifiedToken
from hourpass.scopes import scope_string


class TokenExchangeGrant:
    """It needs no rate limit: a key that does not exist costs no query, and one that does costs a
    query and a signature once in half the life of a token."""

    def __init__(self, exchange: KeyExchange) -> None:
        self._exchange = exchange

    async def issue(self, context: RequestContext, body: TokenExchangeBody) -> IssuedToken:
        """Raises InvalidSubjectTokenError, InvalidTargetError, InvalidScopeError and
        InvalidFormError.

        The networks of a key are not compared with the client's address: that is the address of an
        API, which knows its own client and gets the networks in the token.
        """
        if body.actor_token or body.actor_token_type:
            raise InvalidFormError("The parameter actor_token is not supported")
        if body.audience and body.resource:
            raise InvalidTargetError
        key = body.subject_token.get_secret_value()
        try:
            token, verified = await self._exchange.exchange(
                context, key, body.audience or body.resource, body.scope.strip() or None
            )
        except InvalidTokenError:
            raise InvalidSubjectTokenError from None
        issued = token_of_key(context, token, verified, body.scope)
        return issued.model_copy(update={"issued_token_type": ISSUED_TYPE})


def token_of_key(
    context: RequestContext, token: str, verified: VerifiedToken, requested: str
) -> IssuedToken:
    """The response with the token of an API key. Raises InvalidScopeError if it has none of the
    requested scopes."""
    claims = verified.claims
    context.user_id = verified.user.id
    if requested.strip() and not claims.scopes:
        raise InvalidScopeError
    return IssuedToken(
        token=token,
        access_token=token,
        expires_in=claims.expires_at - int(context.now.timestamp()),
        scope=scope_string(claims.scopes) or None,
    )
