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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not all(map(_is_text, args)):
            raise click.UsageError("The arguments must be text in UTF-8.", ctx)
        return super().parse_args(ctx, args)

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


# The name, the module with the command and, if it is not the name, its attribute there; the help.
_COMMANDS = (
    ("serve", "serve", "Migrate the database, then serve until interrupted."),
    ("migrate", "serve", "Migrate the database to this version's schema."),
    ("users", "users", "List, create, change, disable and delete users."),
    ("sessions", "sessions", "List and revoke sessions."),
    ("invitations", "invitations", "Invite people to register."),
    ("api-keys", "api_keys", "Manage API keys."),
    ("groups", "groups", "Give the same scopes to several users."),
    ("service-accounts", "service_accounts", "Manage users that are programs."),
    ("signing-keys", "signing_keys", "List, rotate and revoke the signing keys."),
    ("webhooks", "webhooks", "Tell other servers what happens to users."),
    ("audit", "audit", "Print the audit log, and follow it."),
    ("mail", "mail", "Check how mail is sent."),
    ("doctor", "doctor", "Check the settings, the database and what the service needs."),
    ("backup", "backup", "Back up the database while the service runs."),
    ("restore", "restore", "Restore a backup."),
    ("after-restore", "restore", "Make a database safe that was restored by other means."),
    ("import", "imports:import_users", "Import the users of another system."),
    ("copy", "database_copy:copy_database", "Copy everything to another database."),
    ("apply", "manifests", "Change users and groups as a file says."),
    ("export", "manifests", "Print users and groups as such a file."),
    ("settings", "settings", "Print the settings."),
    ("init", "init", "Write the settings of a production service."),
    ("secrets", "secret_rotation:secrets", "Rotate SECRET_KEY."),
)
# Commands that are in a group now, under the names that they had before. Not in --help.
_FORMER_COMMANDS = (
    ("create-admin", "users", "Create an administrator."),
    ("erase-user", "former_commands", "Erase a deleted user's personal data from the audit log."),
    ("grant", "user_scopes", "Add scopes to those of a user."),
    ("revoke", "user_scopes", "Remove scopes from those of a user."),
    ("set-scopes", "user_scopes", "Replace all scopes of a user."),
    ("set-password", "user_credentials", "Change a user's password and revoke the user's tokens."),
    ("reset-second-factor", "user_credentials", "Remove a user's second factor."),
    ("unlock", "user_credentials", "Clear a user's login counters."),
    ("keys", "former_commands", "List, rotate and revoke the signing keys."),
    ("test-mail", "mail", "Send a test message."),
)

for _table in (_COMMANDS, _FORMER_COMMANDS):
    for _name, _place, _help in _table:
        _module, _, _attribute = _place.partition(":")
        main.add_lazy(
            _name,
            f"app.cli.{_module}",
            _help,
            attribute=_attribute or None,
            hidden=_table is _FORMER_COMMANDS,
        )


def _is_text(argument: str) -> bool:
    """What a terminal sends may be no text that a database takes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"])).upper()
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
