"""gRPC servers: calls need a valid token in the metadata `authorization`. Needs `grpcio` (the extra
`grpc`).
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
from grpc import aio

from hourpass.errors import (
    RETRY_AFTER_SECONDS,
    GuardError,
    InvalidTokenError,
    ServiceUnavailableError,
)
from hourpass.guard.guard import Guard
from hourpass.guard.networks import IPNetwork, require_network
from hourpass.guard.open_credentials import OpenCredential
from hourpass.guard.open_requests import CHECK_SECONDS
from hourpass.guard.public_paths import PublicPaths
from hourpass.guard.requirements import require_scopes
from hourpass.guard.token_verifier import Verified
from hourpass.user import User

Handler = Any  # grpc.RpcMethodHandler, which is generic in the type stubs only

_STATUS_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    503: grpc.StatusCode.UNAVAILABLE,
}
# Clients with a retry policy wait for so long (gRFC A6).
_RETRY = (("grpc-retry-pushback-ms", str(RETRY_AFTER_SECONDS * 1000)),)
_END = object()

_user: ContextVar[User | None] = ContextVar("hourpass_user", default=None)


def current_user() -> User | None:
    """The user of the call; None in a public method."""
    return _user.get()


class _CallRules:
    """`public` and the keys of `scopes` are methods, `/package.Service/Method`, or all methods of a
    service, `/package.Service/*`."""

    def __init__(self, public: Iterable[str], scopes: Mapping[str, Collection[str]]) -> None:
        self._public = PublicPaths(public)
        self._scopes = [(PublicPaths([pattern]), needed) for pattern, needed in scopes.items()]
        if any(isinstance(needed, str) for _, needed in self._scopes):
            raise TypeError("scopes are lists of scopes by method")

    def are_public(self, details: grpc.HandlerCallDetails) -> bool:
        return self._public.contain(details.method)

    def require_scopes(self, details: grpc.HandlerCallDetails, user: User) -> None:
        """Raises InsufficientScopeError."""
        for methods, needed in self._scopes:
            if methods.contain(details.method):
                require_scopes(user, tuple(needed))


class AioGuardInterceptor(aio.ServerInterceptor):
    """`grpc.aio.server(interceptors=[AioGuardInterceptor(guard)])`.

    Refused calls end with UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE. A call ends when its
    token is revoked, and a streaming one also when it expires. With `finish_calls`, calls finish
    that began with a valid token; so do those of handlers that are no coroutines.
    """

    def __init__(
        self,
        guard: Guard,
        public: Iterable[str] = (),
        *,
        scopes: Mapping[str, Collection[str]] | None = None,
        finish_calls: bool = False,
    ) -> None:
        self._guard = guard
        self._rules = _CallRules(public, scopes or {})
        self._finish_calls = finish_calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        details = handler_call_details
        if self._rules.are_public(details):
            return await continuation(details)
        try:
            token = _token(self._guard, details)
            # The client's address is known in the handler, which then checks it.
            verified = await self._guard.averify_anywhere(token)
            self._rules.require_scopes(details, verified.user)
        except GuardError as error:
            return _refusing(error)
        _user.set(verified.user)  # each call is a task of its own
        handler = await continuation(details)
        return handler and _replace(handler, partial(self._guarded, handler, token, verified))

    def _guarded(
        self, handler: Handler, token: str, verified: Verified, behavior: Callable[..., Any]
    ) -> Callable[..., Any]:
        begin = partial(self._begin, handler, token, verified)
        if inspect.isasyncgenfunction(behavior):

            async def stream(request: Any, context: Any) -> Any:
                await begin(context)
                async for response in behavior(request, context):
                    yield response

            return stream
        if inspect.iscoroutinefunction(behavior):

            async def respond(request: Any, context: Any) -> Any:
                await begin(context)
                return await behavior(request, context)

            return respond
        if verified.networks:
            behavior = _from_networks(verified.networks, behavior)
        return _in_thread(behavior, is_stream=handler.response_streaming)

    async def _begin(self, handler: Handler, token: str, verified: Verified, context: Any) -> None:
        address = _client_address(context)
        try:
            if verified.networks:
                require_network(verified.networks, address)
        except InvalidTokenError as error:
            await _abort(error, context)
        if not self._finish_calls:
            _OpenCall(OpenCredential(self._guard, token, verified, address), handler, context)


class _OpenCall:
    """Ends a call when its token or key is no longer valid."""

    def __init__(self, credential: OpenCredential, handler: Handler, context: Any) -> None:
        self._credential = credential
        self._is_streaming = handler.request_streaming or handler.response_streaming
        self._context = context
        task = asyncio.current_task()
        assert task
        self._task = task
        self._wait()
        context.add_done_callback(lambda _: self._timer.cancel())

    def _wait(self) -> None:
        self._timer = self._task.get_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        loop = self._task.get_loop()
        if self._credential.can_be_renewed:
            self._renewal = loop.create_task(self._renew())
        elif error := self._credential.find_error(can_expire=self._is_streaming):
            self._ending = loop.create_task(self._abort_and_cancel(error))
        else:
            self._wait()

    async def _renew(self) -> None:
        error = await self._credential.renew(can_expire=self._is_streaming)
        if error:
            await self._abort_and_cancel(error)
        elif not self._task.done():
            self._wait()

    async def _abort_and_cancel(self, error: GuardError) -> None:
        with suppress(aio.AbortError, aio.UsageError):  # the second if it has ended by itself
            await _abort(error, self._context)
        self._task.cancel()


class GuardInterceptor(grpc.ServerInterceptor):
    """`grpc.server(…, interceptors=[GuardInterceptor(guard)])`, for servers without asyncio.

    As AioGuardInterceptor, but calls finish that began with a valid token.
    """

    def __init__(
        self,
        guard: Guard,
        public: Iterable[str] = (),
        *,
        scopes: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._guard = guard
        self._rules = _CallRules(public, scopes or {})

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        details = handler_call_details
        handler = continuation(details)
        if handler is None or self._rules.are_public(details):
            return handler

        # A check may wait for the service, and interceptors run in the one thread that accepts
        # calls. So the handler checks, in its own thread.
        def guarded(behavior: Callable[..., Any]) -> Callable[..., Any]:
            def call(request: Any, context: grpc.ServicerContext) -> Any:
                try:
                    token = _token(self._guard, details)
                    user = self._guard.check(token, ip_address=_client_address(context))
                    self._rules.require_scopes(details, user)
                except GuardError as error:
                    _abort(error, context)
                _user.set(user)  # grpc runs each call in a context of its own
                return behavior(request, context)

            return call

        return _replace(handler, guarded)


def _token(guard: Guard, details: grpc.HandlerCallDetails) -> str:
    """Raises MissingTokenError and InvalidTokenError."""
    return guard.get_credential(
        (key.encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in details.invocation_metadata
    )


def _client_address(context: Any) -> str | None:
    """The client's IP address. `peer()` is `ipv4:192.0.2.1:50000` or `ipv6:[2001:db8::1]:50000`,
    possibly percent-encoded. None on a Unix socket."""
    kind, _, address = unquote(context.peer()).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None


def _from_networks(
    networks: Iterable[IPNetwork], behavior: Callable[..., Any]
) -> Callable[..., Any]:
    """The same function, which grpc.aio runs in a thread, for clients in these networks only."""

    def call(request: Any, context: Any) -> Any:
        try:
            require_network(networks, _client_address(context))
        except InvalidTokenError as error:
            _abort(error, context)
        return behavior(request, context)

    return call


def _refusing(error: GuardError) -> Handler:
    """A handler for any kind of call. It does not wait for a message, as a unary handler would."""

    async def refuse(_: Any, context: Any) -> None:
        await _abort(error, context)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _abort(error: GuardError, context: Any) -> Any:
    if isinstance(error, ServiceUnavailableError):
        context.set_trailing_metadata(_RETRY)
    return context.abort(_STATUS_CODES[error.status], str(error))


def _replace(
    handler: Handler, guarded: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Handler:
    """A handler of the same kind, with its behavior in another one."""
    kind = "_".join(
        "stream" if streams else "unary"
        for streams in (handler.request_streaming, handler.response_streaming)
    )
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    replaced: Handler = make(
        guarded(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer
    )
    return replaced


def _in_thread(behavior: Callable[..., Any], *, is_stream: bool) -> Callable[..., Any]:
    """grpc.aio runs functions in threads, where current_user() would not know the call."""
    variables = copy_context()
    if not is_stream:
        return partial(variables.run, behavior)

    def stream(request: Any, context: Any) -> Iterator[Any]:
        responses = iter(variables.run(behavior, request, context))
        while (response := variables.run(next, responses, _END)) is not _END:
            yield response

    return stream
