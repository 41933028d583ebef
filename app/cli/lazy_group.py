"""Groups of commands that are imported when one of them runs, so that others start fast."""

from importlib import import_module

import click


class LazyGroup(click.Group):
    """`module` has a click group of the same name, with underscores."""

    def __init__(self, name: str, module: str, help_text: str) -> None:
        super().__init__(name, help=help_text)
        self._module = module

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._load().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._load().get_command(ctx, cmd_name)

    def _load(self) -> click.Group:
        assert self.name
        group: click.Group = getattr(import_module(self._module), self.name.replace("-", "_"))
        return group
