"""Whether the settings are valid, and fit the way in which the service is used."""

from collections.abc import AsyncIterator

from app.operations.doctor.finding import Finding
from app.operations.doctor.proxy import is_loopback
from app.operations.doctor.system import System
from app.settings import Settings


async def check(system: System) -> AsyncIterator[Finding]:
    for problem in system.problems:
        yield Finding("settings", "error", problem)
    for warning in system.warnings:
        yield Finding("settings", "warning", warning)
    if system.problems:
        return
    settings = system.settings
    if not system.warnings:
        yield Finding("settings", "ok", f"They are valid, for {settings.environment}.")
    if settings.environment == "development" and _is_public(settings):
        text = "Set ENVIRONMENT=production: HOST or ISSUER are those of a service for others."
        yield Finding("settings", "warning", text)
    if settings.secret_key is None:
        text = (
            "SECRET_KEY is not set, so the signing keys and second factors are in the database "
            "unencrypted. Set it to the output of `openssl rand -hex 32`."
        )
        yield Finding("SECRET_KEY", "warning", text)
    else:
        yield Finding("SECRET_KEY", "ok", "It is set. Keep a copy apart from the backups.")


def _is_public(settings: Settings) -> bool:
    return settings.issuer.lower().startswith("https://") or not is_loopback(settings.host)
