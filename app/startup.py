"""Creates the objects of a process that serves, and starts its background jobs."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.datastructures import State

from app.accounts.first_admin.service import create_first_admin
from app.background_jobs import BackgroundJobs
from app.context import RequestContext
from app.credentials.api_keys.exchange import KeyExchange
from app.credentials.api_keys.live_keys import LiveKeys
from app.credentials.api_keys.usage import KeyUsage
from app.credentials.second_factors.encryption import encrypt_existing
from app.database import migrations
from app.database.engine import Database, restrict_file_access, warn_of_ignored_options
from app.database.readiness import Readiness, check_writable
from app.database.replication import warn_of_asynchronous_standbys
from app.groups.old_guards import OldGuardsJob
from app.ip_addresses import ProxyWarning
from app.login.client_credentials import ClientCredentialsGrant
from app.login.dependencies import Grants
from app.login.password_grant import PasswordGrant
from app.login.refresh_grant import RefreshGrant
from app.login.token_exchange import TokenExchangeGrant
from app.login.token_issuer import TokenIssuer
from app.maintenance.recovery.service import RevocationRecovery
from app.maintenance.retention.service import Retention
from app.maintenance.secret_rotation.heartbeat import Heartbeat
from app.server import reports
from app.services import Services, build_services
from app.settings import Settings
from app.token_checks.service import TokenIntrospection, TokenRevocation
from app.tokens.jwt import AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import create_cache
from app.tokens.revocations.feed import MAX_LISTENERS, RevocationFeed
from app.tokens.signing_keys.rotation import KeyRotation
from app.users.token_cache import TokenCache, TokenChecker
from app.webhooks import encryption as webhook_encryption
from app.webhooks.worker import WebhookWorker

if TYPE_CHECKING:
    from app.monitoring.metrics.reporter import Reporter

_log = logging.getLogger("hourpass")


async def start(
    state: State,
    settings: Settings,
    clock: Callable[[], datetime],
    database_clock: Callable[[], datetime] | None,
    stack: AsyncExitStack,
) -> None:
    """Create the objects of the process. The stack closes them in reverse order."""
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
    from app.monitoring.metrics.reporter import Reporter

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
