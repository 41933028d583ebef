"""Commands whose modules are imported when they run, so that `--help` and other commands start
fast."""

from importlib import import_module
from typing import Any

import click


class LazyCommand(click.Command):
    """Stands for the command, or the group, `attribute` of `module`: by default the name with
    underscores. `help_text` is its line in the list of commands."""

    def __init__(
        self,
        name: str,
        module: str,
        help_text: str,
        *,
        attribute: str | None = None,
        hidden: bool = False,
    ) -> None:
        super().__init__(name, short_help=help_text, hidden=hidden)
        self._module = module
        self._attribute = attribute or name.replace("-", "_")

    def load(self) -> click.Command:
        command: click.Command = getattr(import_module(self._module), self._attribute)
        return command


class LazyGroup(click.Group):
    """A group that may have lazy commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest

    def add_lazy(self, name: str, module: str, help_text: str, **options: Any) -> None:
        self.add_command(LazyCommand(name, module, help_text, **options))
