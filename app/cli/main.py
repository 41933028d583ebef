"""The `hourpass` command."""

from typing import Any

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app import __version__, standard_streams
from app.cli.lazy_commands import LazyGroup
from app.errors import ApiError, StartupError


class _Hourpass(LazyGroup):
    """Prints errors that an operator can correct in a line or two, with exit status 1 and without a
    traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        standard_streams.open_closed()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            raise click.ClickException("\n".join(map(_explain, error.errors()))) from None
        except (ApiError, StartupError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Hourpass, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hourpass")
def main() -> None:
    """User accounts and 60-minute tokens for machine-learning APIs."""


for _name, _module, _help in (
    ("serve", "serve", "Migrate the database, then serve until interrupted."),
    ("migrate", "serve", "Migrate the database to this version's schema."),
    ("create-admin", "users", "Create an administrator."),
    ("set-password", "users", "Change a user's password and revoke the user's tokens."),
    ("grant", "users", "Add scopes to those of a user."),
    ("revoke", "users", "Remove scopes from those of a user."),
    ("set-scopes", "users", "Replace all scopes of a user."),
    ("unlock", "users", "Clear a user's login counters."),
    ("reset-second-factor", "users", "Remove a user's second factor."),
    ("erase-user", "users", "Erase a deleted user's personal data from the audit log."),
    ("api-keys", "api_keys", "Manage API keys."),
    ("groups", "groups", "Give the same scopes to several users."),
    ("service-accounts", "service_accounts", "Manage users that are programs."),
    ("keys", "keys", "List, rotate and revoke the signing keys."),
    ("test-mail", "mail", "Send a test message."),
    ("backup", "backup", "Back up the database while the service runs."),
    ("restore", "restore", "Restore a backup."),
    ("after-restore", "restore", "Make a database safe that was restored by other means."),
    ("apply", "manifests", "Change users and groups as a file says."),
    ("export", "manifests", "Print users and groups as such a file."),
    ("settings", "settings", "Print the settings."),
):
    main.add_lazy(_name, f"app.cli.{_module}", _help)
main.add_lazy(
    "import",
    "app.cli.imports",
    "Import the users of another system.",
    attribute="import_users",  # `import` is a keyword of Python
)
main.add_lazy(
    "copy",
    "app.cli.database_copy",
    "Copy everything to another database.",
    attribute="copy_database",
)


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"])).upper()
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
