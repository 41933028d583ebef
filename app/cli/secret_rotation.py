"""`hourpass secrets`: the values of SECRET_KEY, and their rotation."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import run
from app.cli.output import Table, as_json, confirm, counted, print_json, yes
from app.settings import load_settings

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.maintenance.secret_rotation.encrypted_rows import Encrypted
    from app.maintenance.secret_rotation.heartbeat import Worker
    from app.maintenance.secret_rotation.service import Rotation
    from app.services import Services

_STEPS = (
    "Add the new value to SECRET_KEY, behind the old one and a comma, on every host. Restart.",
    "Put the new value first, on every host. Restart.",
    "Encrypt all secrets with the new value: `hourpass secrets rotate`.",
    "Remove the old value, on every host. Restart.",
)


@click.group()
def secrets() -> None:
    """Rotate SECRET_KEY, and see which worker has which of its values."""


@secrets.command()
@as_json
def status(as_json: bool) -> None:
    """Show the values of SECRET_KEY by their fingerprints, and the workers that have them.

    A fingerprint does not reveal the value.
    """
    from app.maintenance.secret_rotation.encrypted_rows import list_counts

    rotation = _read()
    values: list[dict[str, Any]] = [
        {
            "value": value,
            "used_since": rotation.used_since.get(value),
            "secrets": {
                count.content: count.by_value[value]
                for count in rotation.secrets
                if count.by_value[value]
            },
        }
        for value in rotation.values
    ]
    workers: list[dict[str, Any]] = [
        {
            "worker": worker.name,
            "values": worker.fingerprints,
            "seen_seconds_ago": int(worker.seen_ago.total_seconds()),
        }
        for worker in rotation.workers
    ]
    others = _others(rotation)
    if as_json:
        for record in (*values, *({"problem": name, "secrets": n} for name, n in others), *workers):
            print_json(record)
        return
    Table(value=16, first_since=20, secrets=20).rows(
        (
            value["value"],
            f"{value['used_since']:%F %H:%M} UTC" if value["used_since"] else None,
            list_counts(value["secrets"]) or "none",
        )
        for value in values
    )
    for name, numbers in others:
        click.echo(f"{name}: {list_counts(numbers)}")
    click.echo()
    Table(worker=30, seen=10, values=20).rows(
        (
            worker["worker"],
            f"{worker['seen_seconds_ago']} s ago",
            ", ".join(worker["values"]) or "none",
        )
        for worker in workers
    )


@secrets.command()
@yes
def rotate(yes: bool) -> None:
    """Show the steps of a rotation of SECRET_KEY and which one comes next. Do step 3.

    Step 3 encrypts all secrets in the database with the first value, while workers run. If it is
    interrupted, repeat the command.
    """
    from app.maintenance.secret_rotation.service import Step

    rotation = _read()
    _require_all_values(rotation)
    _print_steps(rotation)
    _require_workers(rotation)
    if rotation.step and not rotation.workers:
        click.echo("No worker has been seen in the last minute.")
    if rotation.step is Step.ENCRYPT:
        question = (
            f"Encrypt {counted(rotation.to_encrypt, 'secret')} with the value {rotation.newest}?"
        )
        confirm(question, is_confirmed=yes)
        rotation = _encrypt(rotation)
        click.echo()
        _print_steps(rotation)
    click.echo(_advice(rotation))


def _read() -> "Rotation":
    """Raises ClickException if SECRET_KEY is not set here."""
    from app.maintenance.secret_rotation.service import read_rotation
    from app.tables import metadata

    settings, _ = load_settings()
    if not settings.secret_keys:
        raise click.ClickException("SECRET_KEY is not set.")
    return run(lambda _, context: read_rotation(context.session, settings, metadata))


def _require_all_values(rotation: "Rotation") -> None:
    """Raises ClickException if there are secrets that no value decrypts."""
    from app.maintenance.secret_rotation.encrypted_rows import list_counts

    if rotation.undecryptable:
        numbers = {count.content: count.undecryptable for count in rotation.undecryptable}
        raise click.ClickException(
            f"No value of SECRET_KEY decrypts these secrets: {list_counts(numbers)}. Add the "
            "value that does, after a comma."
        )


def _print_steps(rotation: "Rotation") -> None:
    """Those before the next step have been done."""
    step = rotation.step or 1
    for number, text in enumerate(_STEPS, 1):
        mark = "x" if number < step else ">" if number == step else " "
        click.echo(f"[{mark}] {number}. {text}")
    click.echo()


def _require_workers(rotation: "Rotation") -> None:
    """Raises ClickException if a worker is not as far as the settings of this process."""
    newest = rotation.newest
    if rotation.lacking:
        raise click.ClickException(
            f"These workers do not have the value {newest}: {_names(rotation.lacking)}. Restart "
            "them with it. A worker that was killed is forgotten after a minute."
        )
    if newest not in rotation.values:
        raise click.ClickException(
            f"SECRET_KEY has no value {newest} here, but these workers have it: "
            f"{_names(rotation.with_others)}. Add it here too."
        )
    if rotation.values[0] == newest and rotation.behind:
        raise click.ClickException(
            f"These workers still encrypt with another value than {newest}: "
            f"{_names(rotation.behind)}. Restart them with that value in the first place. A worker "
            "that was killed is forgotten after a minute."
        )


def _encrypt(rotation: "Rotation") -> "Rotation":
    """Returns how far the rotation is afterwards."""
    settings, _ = load_settings()

    async def encrypt(services: "Services", context: "RequestContext") -> "Encrypted":
        from app.database.engine import begin_write
        from app.database.fast_queries import current_time
        from app.maintenance.secret_rotation.encrypted_rows import count_rows, encrypt_with_first
        from app.maintenance.secret_rotation.heartbeat import list_workers, record_use
        from app.maintenance.secret_rotation.service import BEFORE_RECORDS
        from app.tables import metadata

        session = context.session
        # Again: the confirmation may have taken long.
        _require_workers(replace(rotation, workers=tuple(await list_workers(session))))
        now = await current_time(session)
        await begin_write(session)
        await record_use(session, rotation.newest, now)
        for value in rotation.values[1:]:
            await record_use(session, value, BEFORE_RECORDS)
        await session.commit()
        total = await count_rows(session, metadata)
        with click.progressbar(length=total, label="Encrypting", file=sys.stderr) as bar:
            encrypted = await encrypt_with_first(session, settings, metadata, bar.update)
        await begin_write(session)
        await services.events.publish(
            context,
            "secret_key.rotate",
            None,
            value=rotation.newest,
            secrets=str(encrypted.done),
        )
        await session.commit()
        return encrypted

    encrypted = run(encrypt, must_be_writable=True)
    click.echo(f"Encrypted {counted(encrypted.done, 'secret')}.")
    if encrypted.left:
        raise click.ClickException(
            f"{counted(encrypted.left, 'secret')} could not be changed, because others were "
            "changing them. Repeat the command."
        )
    return _read()


def _advice(rotation: "Rotation") -> str:
    from app.maintenance.secret_rotation.service import Step

    if rotation.step is Step.MAKE_FIRST:
        return f"The new value is {rotation.newest}. All workers have it."
    if rotation.step is Step.REMOVE:
        text = f"Everything is encrypted with {rotation.newest}."
        old = [value for value in rotation.values if value != rotation.newest]
        if old:
            text += f" Remove {', '.join(old)}."
        if rotation.with_others:
            text += f" These workers still have other values: {_names(rotation.with_others)}."
        return text
    return (
        f"Everything is encrypted with {rotation.newest}. No rotation is under way. To begin one, "
        "take the output of `openssl rand -hex 32` as the new value."
    )


def _others(rotation: "Rotation") -> list[tuple[str, dict[str, int]]]:
    """Secrets that are encrypted with none of the values."""
    from app.maintenance.secret_rotation.encrypted_rows import WHOLE_TEXT

    numbers = (
        ("not encrypted", {count.content: count.plain for count in rotation.secrets}),
        (
            "encrypted with all of SECRET_KEY, commas included",
            {count.content: count.by_value[WHOLE_TEXT] for count in rotation.secrets},
        ),
        (
            "decrypted by no value",
            {count.content: count.undecryptable for count in rotation.secrets},
        ),
        (
            "decrypted by no value, and will be replaced",
            {count.content: count.replaceable for count in rotation.secrets},
        ),
    )
    return [(name, each) for name, each in numbers if any(each.values())]


def _names(workers: "list[Worker]") -> str:
    return ", ".join(
        f"{worker.name} (seen {worker.seen_ago.total_seconds():.0f} s ago)" for worker in workers
    )
