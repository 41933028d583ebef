"""The command `hourpass`: installed packages add commands to it."""

import sys
from importlib.metadata import EntryPoint, EntryPoints

import click
import pytest

from hourpass import cli


@click.group()
def kitchen() -> None:
    pass


@kitchen.command()
def cook() -> None:
    click.echo("cooked")


@click.group()
def stable() -> None:
    pass


@stable.command()
@click.argument("horse")
def saddle(horse: str) -> None:
    click.echo(f"saddled {horse}")


def start(monkeypatch: pytest.MonkeyPatch, packages: list[str], *arguments: str) -> None:
    """`hourpass ARGUMENTS` where these packages are installed."""
    group = "hourpass.commands"
    found = {group: EntryPoints(EntryPoint(name, f"{__name__}:{name}", group) for name in packages)}
    monkeypatch.setattr(cli, "entry_points", lambda group: found[group])
    monkeypatch.setattr(sys, "argv", ["hourpass", *arguments])
    cli.main()


@pytest.mark.parametrize(
    ("arguments", "output"),
    [(["cook"], "cooked\n"), (["saddle", "Gringolet"], "saddled Gringolet\n")],
    ids=["of the first package", "of another package"],
)
def test_a_command_is_that_of_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    output: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(monkeypatch, ["kitchen", "stable"], *arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("arguments", [["shoe"], []], ids=["an unknown command", "no command"])
def test_without_a_known_command_it_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(monkeypatch, ["kitchen"], *arguments)
    assert ended.value.code == 2
    assert "Usage: hourpass" in capsys.readouterr().err


def test_without_commands_it_says_how_to_install_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit, match=r'pip install "hourpass\[server\]"'):
        start(monkeypatch, [])
