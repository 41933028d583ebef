"""Spans of requests, by route template, and of database statements, without parameters.

No span has a path, a query, a header, an address, a username or the text of an error: each of them
may contain a secret or name a person.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time_ns

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.middleware import PreparedResponse
from app.settings import Settings

__all__ = ["Spans", "TracerProvider"]

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_TRACE_HEADERS = (b"traceparent", b"tracestate")

_w3c = TraceContextTextMapPropagator()


class Spans:
    def __init__(
        self, provider: TracerProvider, settings: Settings, untraced: frozenset[str]
    ) -> None:
        """`untraced` are paths that machines ask for all the time."""
        self._tracer = provider.get_tracer("hourpass")
        self._database = "sqlite" if settings.database_url.startswith("sqlite") else "postgresql"
        self._untraced = untraced

    def add_statement(self, sql: str, seconds: float) -> None:
        """A statement that has just ended. Only those of requests are traced."""
        if not trace.get_current_span().is_recording():
            return
        now = time_ns()
        operation = sql.lstrip().partition(" ")[0].upper()
        self._tracer.start_span(
            operation,
            kind=SpanKind.CLIENT,
            start_time=now - int(seconds * 1e9),
            attributes={
                "db.system.name": self._database,
                "db.operation.name": operation,
                "db.query.text": sql,
            },
        ).end(now)

    def of_fast_path(
        self, try_fast_path: Callable[[Scope], PreparedResponse | None]
    ) -> Callable[[Scope], PreparedResponse | None]:
        def run(scope: Scope) -> PreparedResponse | None:
            started_at = time_ns()
            response = try_fast_path(scope)
            if response is not None:
                span = self._start(scope, started_at)
                _finish(span, scope["method"], response.route, response.status)
                span.end()
            return response

        return run

    def of_app(self, app: ASGIApp) -> ASGIApp:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in self._untraced:
                await app(scope, receive, send)
                return
            status = None

            async def send_noting_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            with self._current(scope) as span:
                try:
                    await app(scope, receive, send_noting_status)
                except BaseException as error:
                    span.set_attribute("error.type", type(error).__qualname__)
                    raise
                finally:
                    route = scope.get("route")
                    _finish(span, scope["method"], route.path if route else None, status)

        return run

    @contextmanager
    def _current(self, scope: Scope) -> Iterator[Span]:
        span = self._start(scope, time_ns())
        # Exceptions are not recorded: their texts may quote a password.
        with trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            yield span

    def _start(self, scope: Scope, started_at: int) -> Span:
        return self._tracer.start_span(
            "HTTP", _parent(scope), SpanKind.SERVER, start_time=started_at
        )


def _parent(scope: Scope) -> Context:
    """What the client says in W3C trace context. Nothing else of it is read, such as baggage."""
    found = {
        name.decode(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _TRACE_HEADERS
    }
    return _w3c.extract(found, Context())


def _finish(span: Span, method: str, route: str | None, status: int | None) -> None:
    known_method = method if method in _METHODS else "_OTHER"
    span.update_name(f"{known_method} {route}" if route else known_method)
    span.set_attribute("http.request.method", known_method)
    if route:
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status is None or status >= 500:
        span.set_status(StatusCode.ERROR)
