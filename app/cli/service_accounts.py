"""Commands for service accounts."""

from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import PAGE_SIZE, read_pages, run
from app.cli.output import Records, as_json, print_change, scopes_text

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services
    from app.users.models import User


@click.group()
def service_accounts() -> None:
    """Manage service accounts: users that are programs, with API keys.

    Everything else about them is done as for other users, with `hourpass users` and `hourpass
    api-keys`.
    """


@service_accounts.command()
@click.argument("username", metavar="NAME")
@click.option("--scope", "scopes", multiple=True, help="A scope of the account. Can be repeated.")
@as_json
def create(username: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Create a service account. NAME begins with svc-."""
    from app.accounts.service_accounts.schemas import NewServiceAccount

    new = NewServiceAccount.model_validate({"username": username, "scopes": list(scopes)})

    async def create_account(services: "Services", context: "RequestContext") -> "User":
        return await services.service_accounts.create(context, new.username, new.scopes)

    account = run(create_account)
    message = f"Created service account {username} with id {account.id}."
    print_change(_record(account), message, as_json=as_json)


@service_accounts.command("list")
@as_json
def list_accounts(*, as_json: bool) -> None:
    """List all service accounts, oldest first."""

    async def show(services: "Services", context: "RequestContext") -> None:
        from app.tokens.jwt import SERVICE

        records = Records(as_json=as_json, id=6, username=24, state=8, scopes=0)
        async for page in read_pages(
            context,
            lambda last: services.users.list(context, last, PAGE_SIZE, kind=SERVICE),
        ):
            for account in page:
                state = "enabled" if account.is_enabled else "disabled"
                records.add(
                    _record(account), state=state, scopes=scopes_text(account.scopes.split())
                )

    run(show)


def _record(account: "User") -> dict[str, Any]:
    from app.accounts.service_accounts.schemas import ServiceAccountRecord

    return ServiceAccountRecord.model_validate(account).model_dump()
