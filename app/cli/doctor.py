"""`hourpass doctor`."""

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from app.cli.output import Records, as_json, counted

if TYPE_CHECKING:
    from app.operations.doctor.finding import Finding


@click.command()
@as_json
@click.pass_context
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Check the settings, the database and what the service needs, and say what to do.

    Changes nothing and sends no message. The exit status is 1 if there is an error. Run it as the
    user, and in the environment, of the service.
    """
    found = asyncio.run(_examine(as_json=as_json))
    errors = sum(finding.state == "error" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    if not as_json:
        summary = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}."
        click.echo(summary if errors or warnings else "Everything is fine.", err=True)
    context.exit(1 if errors else 0)


async def _examine(*, as_json: bool) -> list["Finding"]:
    """Prints each finding at once: a server that does not answer takes some seconds."""
    from app.operations.doctor.checks import run_checks

    records = Records(as_json=as_json, state=7, subject=14, text=0)
    all_findings: list[Finding] = []
    async with aclosing(run_checks()) as results:
        async for findings in results:
            for finding in findings:
                records.add(finding._asdict())
            all_findings += findings
    return all_findings
