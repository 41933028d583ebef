"""The application and its routers. Read this first, then startup.py."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Scope

from app import __version__
from app.accounts.admin.router import router as admin_router
from app.accounts.invitations.router import router as invitations_router
from app.accounts.me.router import router as me_router
from app.accounts.password_resets.router import router as password_resets_router
from app.accounts.registration.router import router as registration_router
from app.accounts.service_accounts.router import router as service_accounts_router
from app.audit.router import router as audit_router
from app.credentials.api_keys.admin_router import router as api_keys_of_users_router
from app.credentials.api_keys.router import router as api_keys_router
from app.credentials.second_factors.router import router as second_factors_router
from app.credentials.sessions.router import router as sessions_router
from app.database.engine import describe_url
from app.errors import StartupError
from app.groups.router import router as groups_router
from app.http import access_log, docs_page, error_responses
from app.http.middleware import PreparedResponse, RequestMiddleware
from app.login.router import router as login_router
from app.monitoring.tracing.environment import create_provider, start_export, stop_export
from app.security.hashing_threads import hashing_threads
from app.server.connections import Connections
from app.server.health import router as health_router
from app.settings import Settings, env_file, load_settings
from app.startup import start
from app.token_checks.fast_path import FAST_PREFIXES, FastPath
from app.token_checks.router import router as token_checks_router
from app.tokens.revocations.router import router as revocations_router
from app.tokens.router import router as tokens_router
from app.webhooks.router import router as webhooks_router

if TYPE_CHECKING:
    from app.monitoring.tracing.spans import TracerProvider

_log = logging.getLogger("hourpass")

# The groups of operations on the docs page, in the order in which people need them.
_TAGS = {
    "Registration and login": "Create an account, get an access token, reset a forgotten password.",
    "My account": "See and change your own account.",
    "My sessions": "See where you are logged in, and log out. A session is a login that can be "
    "refreshed: one with the scope `offline_access`.",
    "My second factor": "Protect your logins with codes from an authenticator app.",
    "My API keys": "Create and revoke keys for programs that cannot log in.",
    "Tokens": "Check, revoke and introspect tokens.",
    "Verification": "Keys and revocations, for APIs that verify tokens themselves.",
    "Administration": "Manage users, service accounts and invitations, read the audit log.",
    "Groups": "Give the same scopes to several users.",
    "Webhooks": "Tell other servers what happens to users.",
    "Health": "Checks for load balancers and orchestrators.",
}

# Monitors and guards repeat these requests all the time.
_ROUTINE_ROUTES = frozenset(("/healthz", "/readyz", "/revocations"))

# FastAPI prepares the routes at their first request, which takes 0.1 s for all of them. They are
# shared by all apps of a process, because each test has its own app.
_routes = APIRouter()
for _router in (  # within a tag, the docs page lists operations in this order
    revocations_router,  # first: routes are tried in order, and a thousand guards may poll this one
    registration_router,
    login_router,
    me_router,
    token_checks_router,
    admin_router,
    service_accounts_router,
    password_resets_router,
    groups_router,
    sessions_router,
    second_factors_router,
    api_keys_router,
    api_keys_of_users_router,
    audit_router,
    invitations_router,
    webhooks_router,
    tokens_router,
    health_router,
):
    _routes.include_router(_router)


def create_app(
    settings: Settings | None = None,
    clock: Callable[[], datetime] | None = None,
    database_clock: Callable[[], datetime] | None = None,
    tracer_provider: "TracerProvider | None" = None,
) -> FastAPI:
    """Create the application. It uses neither the database nor the log before its lifespan starts.

    `clock` is this host's clock. `database_clock` replaces the database's clock in tests, and
    `tracer_provider` the one that exports traces.
    """
    warnings: list[str] = []
    exports_traces = False
    if settings is None:
        settings, warnings = load_settings()
        tracer_provider = create_provider(env_file(), warnings)
        exports_traces = tracer_provider is not None
    clock = clock or partial(datetime.now, UTC)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        access_log.configure(settings)
        async with AsyncExitStack() as stack:
            stack.callback(access_log.finish)  # the server may end by a signal
            if tracer_provider and exports_traces:
                start_export(tracer_provider)
                stack.push_async_callback(stop_export, tracer_provider)
            try:
                _log.info("Starting", extra=_startup_fields(settings))
                for warning in warnings:
                    _log.warning(warning)
                if not settings.strict_passwords:
                    _log.warning(
                        "Weak passwords are accepted. Set PASSWORD_POLICY=strict to reject them"
                    )
                await start(app.state, settings, clock, database_clock, stack)
                if spans:
                    app.state.database.time_statements().on_statement = spans.add_statement
            except StartupError as error:
                _log.critical(str(error))
                raise
            except Exception:
                _log.exception("Cannot start")
                raise
            yield

    app = FastAPI(
        title="Hourpass",
        summary="User accounts and 60-minute tokens for machine-learning APIs.",
        description=docs_page.INTRODUCTION,
        version=__version__,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        lifespan=lifespan,
        routes=_routes.routes,
        openapi_url=None,  # docs_page.py serves both: rendered once, and without internet
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    error_responses.install(app)
    docs_page.install(app, settings.issuer)
    # Outside of the framework's middleware, which costs more than a token check.
    try_fast_path: Callable[[Scope], PreparedResponse | None] = FastPath(app.state).try_fast_path
    app_stack: ASGIApp = app.build_middleware_stack()
    spans = None
    if tracer_provider:
        from app.monitoring.tracing.spans import Spans

        spans = Spans(tracer_provider, settings, _ROUTINE_ROUTES)
        try_fast_path, app_stack = spans.of_fast_path(try_fast_path), spans.of_app(app_stack)
    middleware = RequestMiddleware(
        app_stack, try_fast_path, FAST_PREFIXES, _ROUTINE_ROUTES, settings.cors_origins
    )
    app.state.request_counts = middleware.counts
    app.middleware_stack = app.state.middleware = middleware
    app.state.connections = Connections(settings)
    return app


def _startup_fields(settings: Settings) -> dict[str, object]:
    """What the first log line says, without the passwords in URLs."""
    file = env_file()
    return {
        "version": __version__,
        "database": describe_url(settings),
        "hashing_threads": hashing_threads(settings),
        "env_file": file if file.exists() else f"{file} (none)",
    }


app = create_app()
