"""`hourpass init`: the first `.env` of a production service."""

import os
import re
import secrets
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from shlex import quote

import click
from click.core import ParameterSource
from dotenv import dotenv_values

from app.configuration.types import home
from app.settings import find_errors

_COMMENTS = {
    "ENVIRONMENT": "Settings of Hourpass. docs/configuration.md lists all of them.",
    "SECRET_KEY": "Encrypts secrets in the database. Keep a copy apart from its backups.",
    "FIRST_ADMIN_USERNAME": "Remove both lines after the first login, and change the password.",
}
_NEEDS_NO_QUOTES = re.compile(r"[\w./:@%+,=~?&-]*", re.ASCII)
_NOTHING: Mapping[str, str] = {}
# With Docker Compose, secrets are files that docker-compose.yml names: those in .env would be in
# the environment of the container.
_SECRETS = {
    "SECRET_KEY": "secret_key",
    "POSTGRES_PASSWORD": "database_password",
    "DATABASE_URL": "database_url",
}


class _Answers:
    """The values of the settings. Asks again after an answer that is not valid."""

    def __init__(self, *, may_ask: bool) -> None:
        self._may_ask = may_ask
        self.values = {"ENVIRONMENT": "production"}

    def ask(
        self,
        name: str,
        question: str,
        given: str | None,
        default: str | None = "",
        beside: Mapping[str, str] = _NOTHING,
    ) -> bool:
        """Set the value that an option gave, or else ask for it. Without a default, an answer is
        required; an empty one sets nothing, and returns False. `beside` is set with it.

        Raises UsageError for an option that is not valid.
        """
        while True:
            is_final = given is not None or not self._may_ask
            answer = given if given is not None else default
            if not is_final:
                answer = click.prompt(question, default=default, err=True)
            if not answer:
                if default is None:
                    raise click.UsageError(f"{name} is required.")
                return False
            values = {**self.values, name: answer, **beside}
            errors = find_errors(values)
            if not errors:
                self.values = values
                return True
            if is_final:
                raise click.UsageError("\n".join(errors))
            click.echo("\n".join(errors), err=True)

    def generate(self, name: str) -> None:
        self.values[name] = secrets.token_hex(32)


@click.command()
@click.argument(
    "directory", default=".", type=click.Path(file_okay=False, resolve_path=True, path_type=Path)
)
@click.option("--issuer", help="The https URL under which clients reach the service.")
@click.option("--compose/--no-compose", default=None, help="Whether Docker Compose runs it.")
@click.option(
    "--database-url",
    envvar="DATABASE_URL",
    show_envvar=True,
    help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
)
@click.option("--trusted-proxies", help="IP addresses or networks of your proxies.")
@click.option("--admin", help="The first administrator, who gets a random password.")
@click.option("--mail-from", help="Sender of the mail, if the service sends any.")
@click.option(
    "--smtp-url",
    envvar="SMTP_URL",
    show_envvar=True,
    help="Mail server, such as smtp://USER:PASSWORD@HOST.",
)
@click.option("--no-input", is_flag=True, help="Ask nothing. Needs --issuer.")
def init(
    directory: Path,
    *,
    issuer: str | None,
    compose: bool | None,
    database_url: str | None,
    trusted_proxies: str | None,
    admin: str | None,
    mail_from: str | None,
    smtp_url: str | None,
    no_input: bool,
) -> None:
    """Write the file .env of a production service into DIRECTORY (default: the current one).

    Generates the secrets, asks for what the options leave open, and never replaces a file.
    """
    answers = _Answers(may_ask=not no_input)
    paths = [directory / ".env", *(directory / "secrets" / name for name in _SECRETS.values())]
    for path in paths:
        if os.path.lexists(path):
            raise click.ClickException(f"{path} exists already. This command replaces no file.")
    answers.generate("SECRET_KEY")
    answers.ask("ISSUER", "https URL under which clients reach the service", issuer, None)
    if compose is None:
        has_file = (directory / "docker-compose.yml").exists()
        compose = (
            has_file
            if no_input
            else click.confirm(
                "Does Docker Compose run it, with PostgreSQL?", default=has_file, err=True
            )
        )
    proxies = "Addresses or networks of your proxies (empty: none)"
    answers.ask("TRUSTED_PROXIES", proxies, trusted_proxies)
    if compose:
        if admin or mail_from:
            raise click.UsageError(
                "With Docker Compose, leave --admin and --mail-from out. docs/deployment.md says "
                "how to create an administrator and to send mail."
            )
        answers.generate("POSTGRES_PASSWORD")
        # The environment variable may be that of the image.
        source = click.get_current_context().get_parameter_source("database_url")
        own_url = database_url if source is ParameterSource.COMMANDLINE else None
        password = answers.values["POSTGRES_PASSWORD"]
        default = f"postgresql://hourpass:{password}@database/hourpass"
        answers.ask("DATABASE_URL", "", own_url or default)
        _write_for_compose(directory, answers.values)
    else:
        question = "Database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        answers.ask("DATABASE_URL", question, database_url, "sqlite:///hourpass.db")
        answers.ask(
            "FIRST_ADMIN_USERNAME",
            "Username of the first administrator (empty: create one later)",
            admin,
            beside={"FIRST_ADMIN_PASSWORD": secrets.token_urlsafe(15)},
        )
        sender = "Sender of mail, such as Hourpass <no-reply@example.org> (empty: no mail)"
        if answers.ask("MAIL_FROM", sender, mail_from):
            answers.ask("SMTP_URL", "Mail server: smtp://USER:PASSWORD@HOST", smtp_url, None)
        _write(directory / ".env", _as_text(answers.values), mode=0o600)
    _report(directory, answers.values, is_composed=compose)


def _write_for_compose(directory: Path, values: Mapping[str, str]) -> None:
    settings = {name: value for name, value in values.items() if name not in _SECRETS}
    _write(directory / ".env", _as_text(settings), mode=0o600)
    place = directory / "secrets"
    if place.is_dir():
        place.chmod(0o700)
    for name, file_name in _SECRETS.items():
        # Only the directory keeps others out: users of the containers have to read the files.
        _write(place / file_name, f"{values[name]}\n", mode=0o644)


def _as_text(values: Mapping[str, str]) -> str:
    """Raises UsageError if a value would be read differently."""
    text = "".join(map(_line, values.items()))
    loaded = dotenv_values(stream=StringIO(text))
    if changed := [name for name, value in values.items() if loaded.get(name) != value]:
        raise click.UsageError(
            f"{', '.join(changed)} must not contain quotation marks, backslashes or ${{. Percent-"
            "encode them in a URL."
        )
    return text


def _write(path: Path, text: str, *, mode: int) -> None:
    """Raises ClickException."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, mode), "w") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"Cannot write {path}: {error.strerror}.") from None


def _line(setting: tuple[str, str]) -> str:
    name, value = setting
    comment = f"# {_COMMENTS[name]}\n" if name in _COMMENTS else ""
    # Between single quotes, both Docker Compose and the service take $ and # as they are.
    written = value if _NEEDS_NO_QUOTES.fullmatch(value) else f"'{value}'"
    return f"{comment}{name}={written}\n"


def _report(directory: Path, values: Mapping[str, str], *, is_composed: bool) -> None:
    """Without the values."""
    if is_composed:
        click.echo(f"Wrote {directory}/.env, and three files in {directory}/secrets.")
    else:
        click.echo(f"Wrote {directory}/.env, which only you can read: {', '.join(values)}.")
    click.echo("Keep a copy of SECRET_KEY in another place than the backups of the database.")
    if "FIRST_ADMIN_USERNAME" in values:
        click.echo("The file has the administrator's password. Change it after the first login.")
    if is_composed:
        place = "" if directory == Path.cwd() else f"cd {quote(str(directory))} && "
        command, administrate = (
            f"{place}docker compose up -d --wait",
            "docker compose exec hourpass ",
        )
    else:
        for name, value in values.items():
            if os.environ.get(name, value) != value:
                text = f"Warning: {name} is in the environment too, which overrides the file."
                click.echo(text, err=True)
        place = "" if directory == home() else f"HOURPASS_HOME={quote(str(directory))} "
        command, administrate = f"{place}hourpass serve", place
    click.echo(f"Next: {command}")
    if "FIRST_ADMIN_USERNAME" not in values:
        click.echo(
            f"Then create an administrator: {administrate}hourpass users create NAME --admin"
        )
