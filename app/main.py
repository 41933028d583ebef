"""The whole service on one screen: its routers, and what lives as long as the process."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

from fastapi import APIRouter, FastAPI
from sqlalchemy import make_url

from app import __version__
from app.accounts.admin.router import router as admin_router
from app.accounts.first_admin.service import create_first_admin, mark_as_done
from app.accounts.invitations.router import router as invitations_router
from app.accounts.me.router import router as own_account_router
from app.accounts.password_resets.router import router as password_resets_router
from app.accounts.registration.router import router as registration_router
from app.audit.router import router as audit_router
from app.background_jobs import Chores
from app.context import Caller, ProxyWarning
from app.credentials.second_factors.encryption import seal
from app.credentials.second_factors.router import router as second_factors_router
from app.credentials.sessions.router import router as sessions_router
from app.database import migrations
from app.database.engine import Database, create_engine, restrict_file_access, utc_now
from app.errors import (
    ContentTooLargeError,
    HeadersTooLargeError,
    InternalError,
    InvalidRequestError,
    RequestTimeoutError,
    StartupError,
    UnavailableError,
    UriTooLongError,
)
from app.events import Events
from app.http import access_log, docs_page, error_responses
from app.http.error_responses import documented
from app.http.middleware import Exchange
from app.login.express import Express
from app.login.router import router as login_router
from app.retention.service import Housekeeping
from app.security.passwords import Passwords
from app.security.rate_limits.service import Throttle
from app.server import health
from app.server.connections import Connections
from app.settings import ENV_FILE, Settings
from app.subscribers import listeners_for
from app.token_checks.fast_path import FastLane
from app.token_checks.router import router as token_checks_router
from app.tokens.jwt import Tokens
from app.tokens.key_refresher import LiveKeys
from app.tokens.revocations.cache import create_cache
from app.tokens.revocations.feed import MAX_LISTENERS, RevocationFeed
from app.tokens.revocations.router import router as revocations_router
from app.tokens.revocations.service import Revocations
from app.tokens.router import router as tokens_router
from app.tokens.signing_keys.store import KeyStore
from app.users.service import Users
from app.users.token_cache import Memory

_log = logging.getLogger("hourpass")

# FastAPI prepares a router's routes at the first request to it, which takes 0.1 s for all of them.
# Shared, they are prepared once for all apps of a process: each test has an app of its own.
_routes = APIRouter(
    responses=documented(
        RequestTimeoutError,
        ContentTooLargeError,
        UriTooLongError,
        InvalidRequestError,
        HeadersTooLargeError,
        InternalError,
        UnavailableError,
    )
)
for _router in (
    revocations_router,  # first: a thousand guards ask at once, and routes are tried in order
    login_router,
    token_checks_router,
    registration_router,
    sessions_router,
    second_factors_router,
    tokens_router,
    audit_router,
    admin_router,
    own_account_router,
    password_resets_router,
    invitations_router,
    health.router,
):
    _routes.include_router(_router)


def create_app(
    settings: Settings | None = None,
    clock: Callable[[], datetime] = utc_now,
    database_clock: Callable[[], datetime] | None = None,
) -> FastAPI:
    """The service for these settings. Touches neither database nor logs until it is started.

    `clock` is this host's. Only tests give a `database_clock`, which replaces the database's own.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        access_log.configure(settings)
        _log.info("Starting", extra=_whereabouts(settings))
        if not settings.strict_passwords:
            _log.warning("Any password is accepted; PASSWORD_POLICY=strict refuses weak ones")
        async with AsyncExitStack() as stack:
            try:
                await _start(app, settings, clock, database_clock, stack)
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
        version=__version__,
        lifespan=lifespan,
        routes=_routes.routes,
        openapi_url=None,  # docs.py serves both: rendered once, and without a CDN
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    error_responses.install(app)
    docs_page.install(app)
    # Around the framework's own layers, whose cost is not small beside that of a validation.
    exchange = Exchange(Express(app, app.build_middleware_stack()), FastLane(app.state))
    app.middleware_stack = app.state.exchange = exchange
    app.state.connections = Connections(settings)
    return app


async def _start(
    app: FastAPI,
    settings: Settings,
    clock: Callable[[], datetime],
    database_clock: Callable[[], datetime] | None,
    stack: AsyncExitStack,
) -> None:
    """Make what lives as long as the process; the stack ends it in the opposite order."""
    state = app.state
    state.settings = settings
    state.clock = clock
    state.listeners = listeners = listeners_for(settings)
    state.throttle = Throttle(settings)
    state.proxy_warning = ProxyWarning()
    state.ending = ending = asyncio.Event()  # set by protocol.py
    stack.callback(access_log.request_log.flush)
    state.passwords = passwords = Passwords(settings)
    stack.callback(passwords.close)
    state.database = database = Database(settings, database_clock)
    restrict_file_access(database.engine)
    stack.push_async_callback(database.close)

    if settings.environment == "development":
        await migrations.create_if_empty(database.engine, settings)
    await migrations.check(database.engine)
    async with database.session() as session:
        keyring = await KeyStore(session, settings).load(clock())
        state.tokens = tokens = Tokens(settings, keyring)
        revocations = Revocations(session, tokens.lifetime)
        await seal(session, settings)
        events = Events(session, Caller(), (*listeners, mark_as_done))
        users = Users(session, passwords, revocations, events)
        await create_first_admin(session, users, settings, clock())

    state.revocation_cache = cache = create_cache(create_engine(settings))
    state.keys = keys = LiveKeys(tokens, database, settings, clock, cache.count_revoked_keys)
    state.memory = Memory(tokens, cache)
    # A request in progress is never evicted, and anybody may listen: half of all connections stay
    # free for other requests. The open-files limit is final here; server.py has raised it.
    max_listeners = min(MAX_LISTENERS, state.connections.limit // 2)
    state.revocation_feed = feed = RevocationFeed(cache, keys.catch_up, ending, max_listeners)
    stack.callback(feed.close)
    housekeeping = Housekeeping(database, settings, listeners)
    chores = Chores()
    stack.push_async_callback(chores.end)
    for chore in (cache.follow, keys.keep_fresh, housekeeping.keep_house):
        chores.start(chore)
    if settings.smtp_url:
        from app.mail.messages import check_templates
        from app.mail.worker import Postman  # with its library, which else nobody needs

        check_templates(settings)
        chores.start(Postman(database, settings, listeners, clock).deliver)
    # What lives as long as the process need not be looked through for garbage again and again, nor
    # what is young as often as by default: remembering a token makes a dozen objects, none of which
    # is garbage, and looking through them took a tenth of the time that verifying it does.
    gc.freeze()
    stack.callback(gc.unfreeze)
    stack.callback(gc.set_threshold, *gc.get_threshold())
    gc.set_threshold(10_000)


def _whereabouts(settings: Settings) -> dict[str, object]:
    """Which files and servers this process uses, without the passwords in their URLs."""
    return {
        "version": __version__,
        "database": make_url(settings.database_url).render_as_string(hide_password=True),
        "env_file": ENV_FILE if ENV_FILE.exists() else f"{ENV_FILE} (none)",
    }


app = create_app()
