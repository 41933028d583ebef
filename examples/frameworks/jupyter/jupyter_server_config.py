"""Jupyter's users are those of the guard that have the scope `jupyter`.

Start it in this directory: `jupyter server --config jupyter_server_config.py --port 9000`.
"""

import os

from jupyter_server.auth import IdentityProvider, User
from tornado.web import HTTPError, RequestHandler

from hourpass import Guard, InvalidTokenError, MissingTokenError, ServiceUnavailableError

guard = Guard(os.environ["HOURPASS_URL"])


class HourpassIdentityProvider(IdentityProvider):
    async def get_user(self, handler: RequestHandler) -> User | None:
        try:
            user = await guard.acheck_header(handler.request.headers.get("Authorization"))
        except (MissingTokenError, InvalidTokenError):
            return None
        except ServiceUnavailableError as error:
            raise HTTPError(503, str(error)) from None
        if "jupyter" not in user.scopes:  # all users of a server run code as the same account
            raise HTTPError(403, "The token does not allow this")
        return User(username=user.username)

    def is_token_authenticated(self, handler: RequestHandler) -> bool:
        return True  # there are no cookies, so requests need no XSRF token


c = get_config()  # noqa: F821 - Jupyter defines it
c.ServerApp.identity_provider_class = HourpassIdentityProvider
