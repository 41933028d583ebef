"""Runs operations from the command line. The service need not be running.

Modules of commands import SQLAlchemy and the services when a command runs: they take longer to
import than `hourpass --help` may take.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

import click
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services
    from app.users.models import User

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)

PAGE_SIZE = 200
DATABASE_ID = click.IntRange(1, 2**63 - 1)  # of a column BIGINT


class _HasId(Protocol):
    @property
    def id(self) -> int: ...


Row = TypeVar("Row", bound=_HasId)


def run(
    operation: Callable[["Services", "RequestContext"], Awaitable[Result]],
    *,
    must_be_writable: bool = False,
    in_one_transaction: bool = False,
) -> Result:
    """Run an operation on the configured database. With `in_one_transaction`, its commits are
    savepoints: either all of it happens, or nothing."""
    from app.context import RequestContext
    from app.database import migrations
    from app.database.engine import Database
    from app.database.readiness import check_writable
    from app.services import build_services

    async def run_operation() -> Result:
        settings = read_settings()
        services = build_services(settings)
        database = Database(settings)
        try:
            await migrations.check(database.engine)
            if must_be_writable:
                await check_writable(database)
            new_session = database.transaction if in_one_transaction else database.session
            async with new_session() as session:
                context = RequestContext(session, datetime.now(UTC), user_agent="hourpass")
                return await operation(services, context)
        finally:
            services.close()
            await database.close()

    return asyncio.run(run_operation())


def read_settings() -> Settings:
    """The settings. Prints warnings to standard error. Raises InvalidSettingsError."""
    settings, warnings = load_settings()
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    return settings


async def get_user(services: "Services", context: "RequestContext", username: str) -> "User":
    """Raises UserNotFoundError."""
    from app.users.errors import UserNotFoundError

    if user := await services.users.find(context, username):
        return user
    raise UserNotFoundError


async def read_pages(
    context: "RequestContext", read: Callable[[int], Awaitable[Sequence[Row]]]
) -> AsyncIterator[Sequence[Row]]:
    """All rows, page by page: there may be a million. `read` returns those after an id, at most
    PAGE_SIZE. No transaction is open while the caller prints: the output may be read slowly."""
    last = 0
    while page := await read(last):
        await context.session.commit()
        yield page
        last = page[-1].id
        context.session.expunge_all()


def read_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return read_line(sys.stdin)


def read_line(source: TextIO) -> str:
    """One line, without its end. Raises click.ClickException if it is not text in UTF-8."""
    try:
        return source.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.ClickException("The input must be text in UTF-8.") from None


def check_arguments(
    model: type[Model], values: Mapping[str, Any], hints: Mapping[str, str] | None = None
) -> Model:
    """The options and arguments as a model of the API. `hints` are the names of members that are
    not options of the same name. Raises click.BadParameter, whose exit status is 2."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        hint = (hints or {}).get(name, f"--{name.replace('_', '-')}")
        raise click.BadParameter(problem["msg"], param_hint=hint) from None


def check_scope(scope: str) -> None:
    """Raises click.BadParameter for a scope that a user cannot be granted."""
    from app.tokens.scopes import OFFLINE_ACCESS
    from hourpass.scopes import find_error

    if error := find_error(scope):
        raise click.BadParameter(f"{scope!r}: {error}.")
    if scope == OFFLINE_ACCESS:
        raise click.BadParameter(f"{scope!r} is requested at a login. It cannot be granted.")


def check_argument(kind: Any, name: str, value: Any) -> Any:
    """The value of one argument. Raises click.BadParameter."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"], param_hint=name) from None
