"""The `hourpass` command. It has no subcommands of its own: each installed package can add some.

An entry point in the group `hourpass.commands` names a `click.Group`; the service's is one.
"""

import sys
from importlib.metadata import entry_points

_NO_COMMANDS = 'hourpass: the service is not installed. Install it: pip install "hourpass[server]"'


def main() -> None:
    groups = [entry.load() for entry in entry_points(group="hourpass.commands")]
    if not groups:
        sys.exit(_NO_COMMANDS)
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    group = next((group for group in groups if name in group.commands), groups[0])
    group()
