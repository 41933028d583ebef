"""Commands for invitations."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from app.cli.operations import (
    DATABASE_ID,
    PAGE_SIZE,
    check_argument,
    check_arguments,
    read_pages,
    run,
)
from app.cli.output import Records, as_json, as_text, print_json

if TYPE_CHECKING:
    from app.accounts.invitations.schemas import Invitation
    from app.context import RequestContext
    from app.services import Services

_id = click.argument("invitation_id", metavar="ID", type=DATABASE_ID)
_language = click.option(
    "--language", help="Language of the mail, such as `de`.  [default: English]"
)


@click.group()
def invitations() -> None:
    """Invite people to register."""


@invitations.command("list")
@as_json
def list_invitations(*, as_json: bool) -> None:
    """List the invitations that can still be used, oldest first, without their codes."""

    async def show(services: "Services", context: "RequestContext") -> None:
        from app.accounts.invitations.schemas import Invitation

        records = Records(as_json=as_json, id=6, expires_at=20, mail=8, scopes=24, email=0)
        async for page in read_pages(
            context, lambda last: services.invitations.list(context, last, PAGE_SIZE)
        ):
            for row in page:
                invitation = Invitation.model_validate(row)
                mail = invitation.mail.state if invitation.mail else None
                record = invitation.model_dump()
                records.add(record, mail=mail, scopes=invitation.scopes or "no scopes")

    run(show)


@invitations.command()
@click.option("--email", help="Mail the code to this address. Using it verifies the address.")
@click.option("--scope", "scopes", multiple=True, help="A scope of the user. Can be repeated.")
@click.option("--days", type=int, help="Lifetime in days, from 1 to 30.  [default: 7]")
@_language
@as_json
def create(scopes: tuple[str, ...], *, as_json: bool, **values: Any) -> None:
    """Create an invitation for one registration.

    Its code goes to standard output, everything else to standard error. It is not shown again. With
    --email, it is mailed instead.
    """
    from app.accounts.invitations.schemas import Invitation, InvitationCreated, InvitationRequest

    hints = {"scopes": "--scope"}
    new = check_arguments(InvitationRequest, {**values, "scopes": list(scopes)}, hints)

    async def make(services: "Services", context: "RequestContext") -> "InvitationCreated":
        invitation, code = await services.invitations.create(
            context, new.email, new.scopes, timedelta(days=new.days), new.language
        )
        described = Invitation.model_validate(invitation).model_dump()
        return InvitationCreated(**described, code=None if new.email else code)

    made = run(make)
    if as_json:
        print_json(made.model_dump())
        return
    expires = as_text(made.expires_at)
    if made.code is None:
        click.echo(f"Invitation {made.id} is mailed to {made.email}. It is valid until {expires}.")
        return
    click.echo(
        f"Created invitation {made.id}, valid until {expires}. Its code is not shown again:",
        err=True,
    )
    click.echo(made.code)


@invitations.command()
@_id
@_language
@as_json
def resend(invitation_id: int, language: str | None, *, as_json: bool) -> None:
    """Mail an invitation again. Codes of earlier mails of it stay valid."""
    from app.accounts.invitations.schemas import Invitation
    from app.mail.schemas import Language

    if language is not None:
        check_argument(Language, "--language", language)

    async def mail_again(services: "Services", context: "RequestContext") -> "Invitation":
        again = await services.invitations.resend(context, invitation_id, language)
        return Invitation.model_validate(again)

    invitation = run(mail_again)
    if as_json:
        print_json(invitation.model_dump())
    else:
        click.echo(f"Invitation {invitation.id} is mailed to {invitation.email} again.")


@invitations.command()
@_id
def revoke(invitation_id: int) -> None:
    """Revoke an invitation. Its code becomes invalid."""
    run(lambda services, context: services.invitations.revoke(context, invitation_id))
    click.echo(f"Revoked invitation {invitation_id}.")
