"""The application: its routers, and the objects of each process. Read this first."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State
from starlette.types import ASGIApp, Scope

from app import __version__
from app.accounts.admin.router import router as admin_router
from app.accounts.first_admin.service import create_first_admin
from app.accounts.invitations.router import router as invitations_router
from app.accounts.me.router import router as me_router
from app.accounts.password_resets.router import router as password_resets_router
from app.accounts.registration.router import router as registration_router
from app.accounts.service_accounts.router import router as service_accounts_router
from app.audit.router import router as audit_router
from app.background_jobs import BackgroundJobs
from app.context import RequestContext
from app.credentials.api_keys.admin_router import router as api_keys_of_users_router
from app.credentials.api_keys.exchange import KeyExchange
from app.credentials.api_keys.live_keys import LiveKeys
from app.credentials.api_keys.router import router as api_keys_router
from app.credentials.api_keys.usage import KeyUsage
from app.credentials.second_factors.encryption import encrypt_existing
from app.credentials.second_factors.router import router as second_factors_router
from app.credentials.sessions.router import router as sessions_router
from app.database import migrations
from app.database.engine import (
    Database,
    describe_url,
    restrict_file_access,
    warn_of_ignored_options,
)
from app.database.readiness import Readiness, check_writable
from app.database.replication import warn_of_asynchronous_standbys
from app.errors import StartupError
from app.groups.old_guards import OldGuardsJob
from app.groups.router import router as groups_router
from app.http import access_log, docs_page, error_responses
from app.http.middleware import PreparedResponse, RequestMiddleware
from app.ip_addresses import ProxyWarning
from app.login.client_credentials import ClientCredentialsGrant
from app.login.dependencies import Grants
from app.login.password_grant import PasswordGrant
from app.login.refresh_grant import RefreshGrant
from app.login.router import router as login_router
from app.login.token_exchange import TokenExchangeGrant
from app.login.token_issuer import TokenIssuer
from app.recovery.service import RevocationRecovery
from app.retention.service import Retention
from app.secret_rotation.heartbeat import Heartbeat
from app.security.hashing_threads import hashing_threads
from app.server import reports
from app.server.connections import Connections
from app.server.health import router as health_router
from app.services import Services, build_services
from app.settings import Settings, env_file, load_settings
from app.token_checks.fast_path import FAST_PREFIXES, FastPath
from app.token_checks.router import router as token_checks_router
from app.token_checks.service import TokenIntrospection, TokenRevocation
from app.tokens.jwt import AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import create_cache
from app.tokens.revocations.feed import MAX_LISTENERS, RevocationFeed
from app.tokens.revocations.router import router as revocations_router
from app.tokens.router import router as tokens_router
from app.tokens.signing_keys.rotation import KeyRotation
from app.tracing.environment import create_provider, start_export, stop_export
from app.users.token_cache import TokenCache, TokenChecker
from app.webhooks import encryption as webhook_encryption
from app.webhooks.router import router as webhooks_router
from app.webhooks.worker import WebhookWorker

if TYPE_CHECKING:
    from app.metrics.reporter import Reporter
    from app.tracing.spans import TracerProvider

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
                await _start(app, settings, clock, database_clock, stack)
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
        from app.tracing.spans import Spans

        spans = Spans(tracer_provider, settings, _ROUTINE_ROUTES)
        try_fast_path, app_stack = spans.of_fast_path(try_fast_path), spans.of_app(app_stack)
    middleware = RequestMiddleware(
        app_stack, try_fast_path, FAST_PREFIXES, _ROUTINE_ROUTES, settings.cors_origins
    )
    app.state.request_counts = middleware.counts
    app.middleware_stack = app.state.middleware = middleware
    app.state.connections = Connections(settings)
    return app


async def _start(
    app: FastAPI,
    settings: Settings,
    clock: Callable[[], datetime],
    database_clock: Callable[[], datetime] | None,
    stack: AsyncExitStack,
) -> None:
    """Create the objects of the process. The stack closes them in reverse order."""
    state = app.state
    state.settings = settings
    state.clock = clock
    state.proxy_warning = ProxyWarning()
    state.stopping = stopping = asyncio.Event()  # set by server/protocol.py
    state.database = database = Database(settings, database_clock)
    state.readiness = Readiness()
    warn_of_ignored_options(settings)
    restrict_file_access(database.engine)
    stack.push_async_callback(database.close)
    if settings.environment == "development":
        await migrations.create_or_check(database.engine, settings)
    else:
        await migrations.check(database.engine)
    await check_writable(database)
    await warn_of_asynchronous_standbys(database)

    state.revocation_cache = cache = create_cache(database)
    state.services = services = build_services(settings, cache)
    stack.callback(services.close)
    async with database.session() as session:
        context = RequestContext(session, clock())
        tokens = AccessTokens(settings, await services.keys.load(context))
        await encrypt_existing(session, settings)
        await webhook_encryption.encrypt_existing(session, settings)
        await create_first_admin(
            context, services.passwords, services.revocations, services.events, settings
        )
    _add_token_services(state, services, tokens)
    reporter = _create_reporter(state)
    if reporter:
        stack.callback(reporter.write)  # after the jobs have stopped

    # Listeners need no token, and a waiting one is never evicted. So they get at most half of all
    # connections. server/run.py has already raised the open-files limit.
    max_listeners = min(MAX_LISTENERS, state.connections.limit // 2)
    keys: KeyRefresher = state.key_refresher
    state.revocation_feed = feed = RevocationFeed(cache, keys.catch_up, stopping, max_listeners)
    stack.callback(feed.close)
    state.jobs = jobs = BackgroundJobs()
    stack.push_async_callback(jobs.stop)
    recovery = RevocationRecovery(
        database, cache, services.keys, services.revocations, services.events
    )
    for job in (
        cache.follow,
        keys.run,
        recovery.run,
        state.live_keys.run,
        state.key_usage.run,
        Retention(database, settings).run,
        KeyRotation(database, services.keys).run,
        Heartbeat(database, settings).run,
        WebhookWorker(database, services.webhook_sender, services.events, clock).run,
    ):
        jobs.start(job)
    if settings.old_guards:
        jobs.start(OldGuardsJob(database, cache, services.sessions.revoke_access_tokens).run)
    if settings.smtp_url:
        from app.mail.messages import check_templates
        from app.mail.worker import MailWorker  # imports the SMTP library

        check_templates(settings)
        jobs.start(MailWorker(database, settings, services.events, clock).run)
    if reporter:
        jobs.start(reporter.run)
        if settings.smtp_url:
            jobs.start(reporter.mail.run)
    _tune_garbage_collection(stack)


def _create_reporter(state: State) -> "Reporter | None":
    if state.settings.metrics_port is None:
        return None
    report = reports.own()
    if report is None:
        _log.warning("METRICS_PORT has no effect without `hourpass serve`")
        return None
    from app.metrics.reporter import Reporter

    return Reporter(state, report)


def _add_token_services(state: State, services: Services, tokens: AccessTokens) -> None:
    """Add the services that the command line does not need: it issues and checks no tokens."""
    settings, cache = state.settings, state.revocation_cache
    state.tokens = tokens
    state.key_refresher = keys = KeyRefresher(
        tokens,
        state.database,
        services.keys,
        state.clock,
        cache,
    )
    state.token_cache = TokenCache(tokens, cache)
    state.token_checker = checker = TokenChecker(state.token_cache, keys, services.users)
    state.live_keys = LiveKeys(state.database, cache)
    state.key_usage = KeyUsage(state.database)
    key_exchange = KeyExchange(
        settings=settings,
        tokens=tokens,
        keys=keys,
        cache=state.token_cache,
        checker=checker,
        live_keys=state.live_keys,
        usage=state.key_usage,
    )
    checker.readers = (key_exchange,)
    state.token_introspection = TokenIntrospection(checker, tokens)
    state.token_revocation = TokenRevocation(
        checker=checker,
        sessions=services.sessions,
        revocations=services.revocations,
        events=services.events,
        limiter=services.login_limiter,
        api_keys=services.api_keys,
        live_keys=state.live_keys,
    )
    issuer = TokenIssuer(tokens, keys, settings)
    password_grant = PasswordGrant(
        limiter=services.login_limiter,
        passwords=services.passwords,
        second_factors=services.second_factors,
        sessions=services.sessions,
        issuer=issuer,
        events=services.events,
    )
    state.grants = Grants(
        password_grant,
        RefreshGrant(services.sessions, services.second_factors, issuer),
        TokenExchangeGrant(key_exchange),
        ClientCredentialsGrant(key_exchange),
    )


def _tune_garbage_collection(stack: AsyncExitStack) -> None:
    """Exclude the objects that last as long as the process from garbage collection, and collect
    less often. Caching a token creates a dozen objects, none of them garbage. By default, searching
    them took a tenth of the time of a token check."""
    gc.freeze()
    stack.callback(gc.unfreeze)
    stack.callback(gc.set_threshold, *gc.get_threshold())
    gc.set_threshold(10_000)


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
