"""`hourpass serve` and `hourpass migrate`."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.operations import read_settings, run
from app.settings import Settings

if TYPE_CHECKING:
    from app.server.reports import Reports


@click.command()
@click.option("--host", help="Address to listen on.  [default: HOST, or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="[default: PORT, or 8000]")
@click.option("--workers", type=click.IntRange(1, 256), help="[default: WORKERS, or 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Migrate the database, then serve until interrupted."""
    from app.database import migrations
    from app.http import access_log
    from app.server.run import serve

    if port is not None:
        os.environ["PORT"] = str(port)  # for the workers: without ISSUER, they name it in tokens
    if workers is not None:
        os.environ["WORKERS"] = str(workers)  # for the workers: they share the memory
    current = read_settings()
    migrations.upgrade(current)
    # An error is printed once, by this process, instead of by each worker.
    run(lambda services, context: services.keys.load(context), must_be_writable=True)
    access_log.configure(current)  # for the lines of the supervisor
    _warn_of_other_services(current)
    serve(
        host or current.host,
        current.port,
        current.workers,
        _serve_metrics(current) if current.metrics_port else None,
    )


def _serve_metrics(settings: Settings) -> "Reports":
    from app.monitoring.metrics.server import serve_metrics  # imports prometheus_client

    return serve_metrics(settings)


def _warn_of_other_services(settings: Settings) -> None:
    from sqlalchemy import make_url

    from app.database.serving_processes import hold

    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        return
    if others := hold(Path(url.database or "").resolve()):
        logging.getLogger("hourpass").warning(
            "Another service uses this SQLite file. If this is not on purpose, stop one of them",
            extra={"processes": others},
        )


@click.command()
def migrate() -> None:
    """Migrate the database to this version's schema."""
    from app.database import migrations

    migrations.upgrade(read_settings())
    click.echo(f"The database is at {migrations.HEAD}.")
