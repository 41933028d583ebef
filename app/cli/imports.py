"""The command that imports users of other systems."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import check_scope, run
from app.cli.output import Table, as_json, counted, print_json
from app.operations.imports.errors import ImportFileError
from app.operations.imports.formats import READERS
from app.operations.imports.records import MAX_HASH_SECONDS, Options
from app.operations.imports.values import FIELDS
from app.security import hash_costs
from app.security.hashing_threads import hashing_threads
from app.settings import Settings, load_settings
from app.users.visible_text import is_visible

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.operations.imports.reader import Reader
    from app.operations.imports.report import LeftOut, Report
    from app.services import Services

_MAX_NAME = 80
_MAX_ROLES = 10

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def _read_columns(
    _context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    columns: dict[str, str] = {}
    for pair in pairs:
        column, _, field = pair.rpartition("=")
        if not column or field not in FIELDS:
            known = ", ".join(FIELDS)
            raise click.BadParameter(f"{pair!r} is not COLUMN=FIELD. The fields are {known}.")
        if field in columns:
            raise click.BadParameter(f"{field} is named twice.")
        columns[field] = column
    return columns


def _read_scopes(
    _context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, frozenset[str]]:
    scopes: dict[str, frozenset[str]] = {}
    for pair in pairs:
        role, _, scope = pair.rpartition("=")
        if not role:
            raise click.BadParameter(f"{pair!r} is not ROLE=SCOPE.")
        check_scope(scope)
        scopes[role] = scopes.get(role, frozenset()) | {scope}
    return scopes


@click.command("import")
@click.argument("file", type=_file)
@click.option(
    "--from", "source", type=click.Choice(list(READERS)), required=True, help="The file's format."
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would happen.")
@click.option(
    "--map",
    "columns",
    metavar="COLUMN=FIELD",
    multiple=True,
    callback=_read_columns,
    help=f"The column, or the path, of a field: {', '.join(FIELDS)}. Can be repeated.",
)
@click.option(
    "--scope",
    "scopes",
    metavar="ROLE=SCOPE",
    multiple=True,
    callback=_read_scopes,
    help="The scope for a role, group or permission of the other system. Can be repeated.",
)
@click.option("--hashes", type=_file, help="auth0: the file with the password hashes.")
@click.option(
    "--secrets",
    type=_file,
    help="firebase: the password hash parameters. book: its config.yml.",
)
@click.option(
    "--max-hash-seconds",
    type=click.FloatRange(0.001, 60),
    default=MAX_HASH_SECONDS,
    show_default=True,
    help="Leave out users whose password hash takes longer to verify on this machine.",
)
@click.option(
    "--drop-passwords",
    is_flag=True,
    help="Import users whose password cannot be taken over, without it.",
)
@click.option(
    "--drop-second-factors",
    is_flag=True,
    help="Import users whose second factor cannot be taken over, without it.",
)
@as_json
def import_users(
    file: Path,
    source: str,
    *,
    dry_run: bool,
    columns: dict[str, str],
    scopes: dict[str, frozenset[str]],
    hashes: Path | None,
    secrets: Path | None,
    max_hash_seconds: float,
    drop_passwords: bool,
    drop_second_factors: bool,
    as_json: bool,
) -> None:
    """Import the users of another system, with their password hashes.

    Users whose names exist stay as they are, so that the command can be repeated. Each user that is
    left out is named on standard error, with the reason; the exit status is then 1. Roles of the
    other system have no effect without --scope.
    """
    options = Options(
        columns=columns,
        scopes=scopes,
        hashes=hashes,
        secrets=secrets,
        max_hash_seconds=max_hash_seconds,
        drop_passwords=drop_passwords,
        drop_second_factors=drop_second_factors,
    )
    reader = READERS[source](file, options)
    settings, _ = load_settings()  # run() prints the warnings
    number = _count(reader, file)
    on_left_out = _print_left_out_json if as_json else _print_left_out

    async def import_all(services: "Services", context: "RequestContext") -> "Report":
        from app.operations.imports.service import Importer

        importer = Importer(services.passwords, services.events, settings, options)
        is_shown = sys.stderr.isatty()
        with click.progressbar(length=number, file=sys.stderr, hidden=not is_shown) as bar:
            return await importer.run(
                context,
                reader,
                source=source,
                dry_run=dry_run,
                on_left_out=on_left_out,
                on_progress=bar.update,
            )

    report = run(import_all, must_be_writable=not dry_run)
    if as_json:
        print_json(_record(report, dry_run=dry_run))
    else:
        _print(report, settings, options, dry_run=dry_run)
    if report.left_out:
        raise SystemExit(1)


def _count(reader: "Reader", file: Path) -> int:
    """The number of records. Reads all of the file, so that a damaged one changes nothing."""
    if not file.is_file():  # a pipe, for example, can be read once only
        raise ImportFileError(f"{file} is not a regular file.")
    number = sum(1 for _ in reader.records())
    if not number:
        raise ImportFileError(f"{file} has no users in this format.")
    return number


def _print_left_out(user: "LeftOut") -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # the progress bar
    name = _printable(user.name) or "a user without a name"
    reason = f"{user.reason.value}. {user.detail}."
    click.echo(f"{clear}Left out {name} (record {user.number}): {reason}", err=True)


def _print_left_out_json(user: "LeftOut") -> None:
    print_json(
        {
            "record": user.number,
            "username": user.name,
            "reason": user.reason.name.lower(),
            "detail": user.detail,
        }
    )


def _record(report: "Report", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "imported": report.imported,
        "existing": report.existing,
        "left_out": {reason.name.lower(): n for reason, n in report.left_out.items()},
        "administrators": report.administrators,
        "disabled": report.disabled,
        "second_factors": report.second_factors,
        "without_password": report.without_password,
        "dropped_passwords": report.dropped_passwords,
        "dropped_second_factors": report.dropped_second_factors,
        "passwords_to_hash": report.to_hash,
        "hashes": {
            name: {"users": kind.users, "slowest_seconds": round(kind.slowest, 3)}
            for name, kind in report.hashes.items()
        },
        "roles_without_scope": dict(report.unmapped_roles),
    }


def _print(report: "Report", settings: Settings, options: Options, *, dry_run: bool) -> None:
    if dry_run:
        click.echo("Nothing was changed. Without --dry-run, the import would give:\n")
    table = Table(users=48, number=1)
    table.row(("imported", report.imported))
    for label, number in (
        ("  administrators", report.administrators),
        ("  disabled", report.disabled),
        ("  with a second factor", report.second_factors),
        ("  without a password", report.without_password),
        ("  whose password was dropped", report.dropped_passwords),
        ("  whose second factor was dropped", report.dropped_second_factors),
    ):
        if number:
            table.row((label, number))
    table.row(("there already", report.existing))
    table.row(("left out", report.left_out.total()))
    for reason, number in report.left_out.most_common():
        table.row((f"  {reason.value}", number))
    _print_costs(report, settings, options)
    if roles := report.unmapped_roles:
        click.echo("\nThese roles have no effect. Give them one with --scope ROLE=SCOPE:")
        most_common = sorted(roles.items(), key=lambda item: (-item[1], item[0]))
        for role, number in most_common[:_MAX_ROLES]:
            click.echo(f"  {_printable(role)} ({counted(number, 'user')})")
        if len(roles) > _MAX_ROLES:
            click.echo(f"  and {len(roles) - _MAX_ROLES} more")


def _print_costs(report: "Report", settings: Settings, options: Options) -> None:
    ours = hash_costs.argon2(settings.argon2_memory_kib, settings.argon2_passes).seconds()
    if report.hashes:
        click.echo("\nVerifying a hash takes, on this machine, until the user's first login:")
        table = Table(hash=14, users=9, seconds=1)
        for name, kind in sorted(report.hashes.items()):
            table.row((name, kind.users, f"{kind.slowest:.3f}"))
        table.row(("of Hourpass", "", f"{ours:.3f}"))
        click.echo(f"Up to {options.max_hash_seconds:g} seconds are allowed (--max-hash-seconds).")
    if report.to_hash:
        seconds = report.to_hash * ours / hashing_threads(settings)
        users = counted(report.to_hash, "user")
        click.echo(f"\nHashing the passwords of {users} takes {seconds:,.1f} seconds.")


def _printable(name: str) -> str:
    """Names of other systems may have characters that a terminal would obey."""
    shown = name if is_visible(name) else ascii(name)
    return shown if len(shown) <= _MAX_NAME else f"{shown[:_MAX_NAME]}…"
