"""Commands for service accounts."""

import json

import click

from app.accounts.service_accounts.schemas import NewServiceAccount
from app.cli.operations import run
from app.context import RequestContext
from app.services import Services
from app.tokens.jwt import SERVICE
from app.users.models import User

_PAGE = 500


@click.group()
def service_accounts() -> None:
    """Manage service accounts: users that are programs, with API keys."""


@service_accounts.command()
@click.argument("username")
@click.option("--scope", "scopes", multiple=True, help="A scope of the account. Can be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(username: str, scopes: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click
    """Create a service account. USERNAME begins with svc-."""
    new = NewServiceAccount.model_validate({"username": username, "scopes": list(scopes)})

    async def create_account(services: Services, context: RequestContext) -> User:
        return await services.service_accounts.create(context, new.username, new.scopes)

    account = run(create_account)
    if as_json:
        click.echo(json.dumps(_record(account)))
    else:
        click.echo(f"Created service account {username} with id {account.id}.")


@service_accounts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:  # noqa: FBT001 - click
    """List all service accounts."""

    async def read(services: Services, context: RequestContext) -> list[User]:
        found: list[User] = []
        while page := await services.users.list(
            context, found[-1].id if found else 0, _PAGE, kind=SERVICE
        ):
            found += page
        return found

    accounts = run(read)
    if as_json:
        click.echo(json.dumps([_record(account) for account in accounts]))
        return
    for account in accounts:
        state = "enabled" if account.is_enabled else "disabled"
        click.echo(f"{account.id}\t{account.username}\t{state}\t{account.scopes}")


def _record(account: User) -> dict[str, object]:
    return {
        "id": account.id,
        "username": account.username,
        "is_enabled": account.is_enabled,
        "scopes": account.scopes.split(),
    }
