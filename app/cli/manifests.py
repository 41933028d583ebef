"""`hourpass apply` and `hourpass export`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from app.cli.operations import run
from app.cli.output import as_json, confirm, counted, print_json, yes

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.operations.manifests.differences import Change
    from app.operations.manifests.schemas import Manifest
    from app.services import Services

_SIGNS = {"create": "+", "update": "~", "delete": "-"}


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option(
    "--prune",
    is_flag=True,
    help="Also disable the users and service accounts, and delete the groups, that are not in the "
    "file. Concerns only sections that the file has.",
)
@click.option("--dry-run", is_flag=True, help="Show the difference, and change nothing.")
@click.option(
    "--check", is_flag=True, help="As --dry-run, with exit status 1 if there is a difference."
)
@as_json
@yes
def apply(
    file: BinaryIO, *, prune: bool, dry_run: bool, check: bool, as_json: bool, yes: bool
) -> None:
    """Give users, service accounts and groups the rights that FILE says.

    Shows the difference and asks. All changes are one transaction. What FILE leaves
    out stays as it is.
    """
    manifest = _read(file, prune=prune)
    changes = run(lambda services, context: _find_changes(services, context, manifest))
    for change in changes:
        _show(change, as_json=as_json)
    if not changes:
        if not as_json:
            click.echo("There is no difference.")
        return
    if check:
        sys.exit(1)
    if dry_run:
        return
    number = counted(len(changes), "change")
    confirm(f"Apply {number}?", is_confirmed=yes)
    run(
        lambda services, context: _apply(services, context, manifest, changes),
        in_one_transaction=True,
    )
    if as_json:
        return
    click.echo(f"Applied {number}.")
    if new := [change.name for change in changes if (change.kind, change.action) == _NEW_USER]:
        click.echo(
            f"Without a password yet: {', '.join(new)}. Reset the password of each to get a code."
        )


_NEW_USER = ("user", "create")


@click.command()
def export() -> None:
    """Print all users, service accounts and groups in the form that `apply` reads.

    The output has e-mail addresses, but no secrets.
    """
    from app.operations.manifests.export import export
    from app.operations.manifests.reader import MAX_BYTES

    exported = run(lambda _services, context: export(context))
    click.echo(exported, nl=False)
    if len(exported.encode()) > MAX_BYTES:
        click.echo(
            f"Warning: `hourpass apply` reads at most {MAX_BYTES:,} bytes. Split this file.",
            err=True,
        )


def _read(file: BinaryIO, *, prune: bool) -> "Manifest":
    from app.operations.manifests.reader import MAX_BYTES, read_manifest

    manifest = read_manifest(file.read(MAX_BYTES + 1), file.name)
    return manifest.model_copy(update={"prune": True}) if prune else manifest


async def _find_changes(
    services: "Services", context: "RequestContext", manifest: "Manifest"
) -> "list[Change]":
    from app.operations.manifests.service import Manifests

    return await Manifests(services).find_changes(context, manifest)


async def _apply(
    services: "Services",
    context: "RequestContext",
    manifest: "Manifest",
    changes: "Sequence[Change]",
) -> None:
    from app.operations.manifests.service import Manifests

    await Manifests(services).apply(context, manifest, changes)


def _show(change: "Change", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "action": change.action,
                "kind": change.kind,
                "name": change.name,
                "before": change.before,
                "after": change.after,
            }
        )
        return
    click.echo(f"{_SIGNS[change.action]} {change.kind} {change.name}")
    for name in change.after or change.before:
        sides = [_text(values[name]) for values in (change.before, change.after) if values]
        click.echo(f"    {name}: {' → '.join(sides)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return "none" if value is None else str(value)
