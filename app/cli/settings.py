"""`hourpass settings`."""

import json

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.cli.operations import read_settings
from app.configuration.sources import find_origin
from app.settings import Settings, env_file


@click.command()
@click.option("--values", is_flag=True, help="Print the current values, and where each comes from.")
@click.option("--json", "as_json", is_flag=True, help="With --values: print JSON.")
def settings(values: bool, as_json: bool) -> None:
    """Print every setting with its default and its description, as a .env file."""
    if not values:
        for name, field in Settings.model_fields.items():
            click.echo(f"# {field.description}\n{name.upper()}={_default(field)}")
        return
    current, file = read_settings(), env_file()
    rows = {
        name.upper(): {"value": _value(current, name), "origin": find_origin(name, file)}
        for name in Settings.model_fields
    }
    if as_json:
        click.echo(json.dumps(rows))
        return
    for name, row in rows.items():
        click.echo(f"{name}={row['value']}  # {row['origin']}")


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, ()) else str(field.default)


def _value(current: Settings, name: str) -> str:
    """Without secrets."""
    value = getattr(current, name)
    if value is None:
        return ""
    if name == "database_url":
        from app.database.engine import describe_url

        return describe_url(current)
    if isinstance(value, SecretStr):
        return "********"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
