"""Creates the exporter that the standard variables OTEL_* describe."""

import asyncio
import logging
import os
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from app import __version__
from app.configuration.sources import read_env_file

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

STOP_SECONDS = 3.0

NOT_INSTALLED = (
    "OTEL_EXPORTER_OTLP_ENDPOINT has no effect, since OpenTelemetry is not installed. "
    'Run: pip install "hourpass-service[otel]"'
)
OTHER_PROTOCOL = "Traces are sent by http/protobuf, whatever OTEL_EXPORTER_OTLP_PROTOCOL says"

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


def create_provider(env_file: Path, warnings: list[str]) -> "TracerProvider | None":
    """None unless an endpoint is set. Adds to `warnings`. It exports after start_export()."""
    _read_variables(env_file)
    if not _is_enabled():
        return None
    try:
        from opentelemetry.exporter.otlp.proto import http  # noqa: F401 - only whether it is there
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        warnings.append(NOT_INSTALLED)
        return None
    if any(os.environ.get(name, "http/protobuf") != "http/protobuf" for name in _PROTOCOLS):
        warnings.append(OTHER_PROTOCOL)
    attributes = {"service.version": __version__}  # these override the variables
    has_name = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not has_name and not os.environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = "hourpass"
    return TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)


def start_export(provider: "TracerProvider") -> None:
    """Starts a thread, which stop_export() stops."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Without the warnings before each new try, which quote the endpoint.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


async def stop_export(provider: "TracerProvider") -> None:
    """Send the last spans. A collector that does not answer must not delay a restart."""
    stopping = Thread(target=provider.shutdown, daemon=True)
    stopping.start()
    await asyncio.to_thread(stopping.join, STOP_SECONDS)


def _read_variables(env_file: Path) -> None:
    """Add those of `.env` to the environment, where OpenTelemetry looks for them."""
    for name, value in read_env_file(env_file).items():
        if name.startswith("OTEL_") and value:
            os.environ.setdefault(name, value)


def _is_enabled() -> bool:
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    has_exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
    return any(map(os.environ.get, _ENDPOINTS)) and has_exporter and not is_disabled
