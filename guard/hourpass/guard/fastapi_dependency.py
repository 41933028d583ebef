"""What FastAPI's routes depend on. Only imported where FastAPI is installed."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from inspect import Parameter, Signature
from typing import Annotated, Any
from weakref import WeakSet

from fastapi import HTTPException, Security, WebSocketException
from fastapi.exception_handlers import http_exception_handler
from fastapi.openapi.models import APIKey, HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.status import WS_1008_POLICY_VIOLATION

from hourpass.errors import GuardError, MissingTokenError
from hourpass.guard.asgi import client_address
from hourpass.guard.fastapi_app import check_routes, mark_requirement, warn_of_open_routes
from hourpass.guard.fastapi_names import names_in
from hourpass.guard.middleware import Authenticated
from hourpass.guard.name_readers import NameReader
from hourpass.guard.refusals import Refusal
from hourpass.guard.requirements import Requirement
from hourpass.user import User


class RouteDependency(SecurityBase):
    """A SecurityBase, so that the routes that depend on it say so in their OpenAPI."""

    def __init__(self, scheme_name: str, api_key_headers: Iterable[str]) -> None:
        self.scheme_name = scheme_name
        self.model = HTTPBearer(
            bearerFormat="JWT", description="A token or an API key of the Hourpass service"
        )
        self.key_schemes = [KeyScheme(scheme_name, header) for header in api_key_headers]
        self.__signature__ = _with_alternatives(self.key_schemes)
        self._seen_apps: WeakSet[object] = WeakSet()

    @abstractmethod
    async def acheck(self, token: str, *, ip_address: str | None = None) -> User: ...

    @abstractmethod
    def get_credential(self, headers: Iterable[tuple[bytes, bytes]]) -> str: ...

    @abstractmethod
    def refusal(self, error: GuardError, accept: str = "") -> Refusal: ...

    # FastAPI pays for each parameter and each dependency of a dependency: here is one and none,
    # except with `api_key_headers`, which are dependencies for the OpenAPI.
    async def __call__(self, connection: HTTPConnection, **_: None) -> User:
        scope = connection.scope
        if scope["app"] not in self._seen_apps:
            check_routes(scope["app"])  # where no middleware of ours has done so at the start
            self._seen_apps.add(scope["app"])
            warn_of_open_routes(scope["app"], self)
        authenticated = scope.get(Authenticated.KEY)
        if authenticated and authenticated.guard is self:  # the middleware was faster
            user: User = authenticated.user
            return user
        try:
            credential = self.get_credential(scope["headers"])
            return await self.acheck(credential, ip_address=client_address(scope))
        except GuardError as error:
            raise self._refused(error, connection) from None

    @property
    def optional(self) -> Callable[..., Awaitable[User | None]]:
        """A dependency that is None if the request has no token. An invalid token is refused."""
        return self._optional_user

    def require(self, *scopes: str, **names: NameReader) -> Callable[..., Awaitable[User]]:
        """A dependency like the guard itself that also refuses, with 403, tokens whose scopes do
        not cover all of these.

        `require("predict:{model}")` takes the name from the path, and
        `require("predict:{model}", model=from_json("model"))` from the body. A request whose name
        is malformed or ambiguous is refused with 400.
        """
        requirement = Requirement(*scopes, **names)

        async def user_with_scopes(
            connection: HTTPConnection, user: Annotated[User, Security(self, scopes=scopes)]
        ) -> User:
            try:
                found = {} if requirement.is_fixed else await names_in(connection, requirement)
                requirement.check(user, found)
            except GuardError as error:
                raise self._refused(error, connection) from None
            return user

        mark_requirement(user_with_scopes, requirement)
        return user_with_scopes

    def check_routes(self, app: Any) -> None:
        """Raises ValueError if a route of a FastAPI app depends on require() with a name that its
        path does not have. An app with protect() or the middleware does this when it starts."""
        check_routes(app)

    async def _optional_user(self, connection: HTTPConnection) -> User | None:
        try:
            self.get_credential(connection.scope["headers"])
        except MissingTokenError:
            return None
        except GuardError as error:
            raise self._refused(error, connection) from None
        return await self(connection)

    def _refused(self, error: GuardError, connection: HTTPConnection) -> Exception:
        if connection.scope["type"] == "websocket":  # refused before it is accepted
            return WebSocketException(WS_1008_POLICY_VIOLATION, str(error))
        _handle_refusals(connection)
        return RefusedError(error, self.refusal(error, connection.headers.get("accept", "")))


class KeyScheme(SecurityBase):
    """A header that may have an API key, for the OpenAPI. The guard reads it."""

    def __init__(self, scheme_name: str, header: str) -> None:
        self.scheme_name = f"{scheme_name} {header}".replace(" ", "-")
        self.model = APIKey.model_validate(
            {"in": "header", "name": header, "description": "An API key of the Hourpass service"}
        )

    def __call__(self) -> None: ...


def _with_alternatives(schemes: Iterable[KeyScheme]) -> Signature:
    """The signature of a guard, with other security schemes than its own as dependencies: FastAPI
    lists what an operation depends on as alternatives."""
    return Signature(
        [
            Parameter("connection", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection),
            *(
                Parameter(f"scheme_{number}", Parameter.KEYWORD_ONLY, default=Security(scheme))
                for number, scheme in enumerate(schemes)
            ),
        ]
    )


class RefusedError(HTTPException):
    """What a route with the guard raises. An app with its own handler for HTTPException uses that
    one; otherwise the response is the same as the middleware's."""

    def __init__(self, error: GuardError, refusal: Refusal) -> None:
        super().__init__(error.status, str(error), error.headers())
        self.refusal = refusal


def _handle_refusals(connection: HTTPConnection) -> None:
    """Starlette keeps an app's handlers in the scope. The app itself cannot be told of another one
    once it has begun to serve."""
    handlers, _ = connection.scope.get("starlette.exception_handlers", ({}, {}))
    if handlers.get(StarletteHTTPException) is http_exception_handler:
        handlers.setdefault(RefusedError, _respond)


async def _respond(_: Request, error: RefusedError) -> Response:
    status, headers, body = error.refusal
    return Response(body, status, headers)
