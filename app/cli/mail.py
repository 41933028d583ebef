"""Commands for mail."""

import asyncio

import click

from app.cli.operations import read_settings
from app.cli.output import as_text


@click.group()
def mail() -> None:
    """Check how mail is sent."""


@click.command()
@click.argument("address")
def test_mail(address: str) -> None:
    """Send a test message to ADDRESS, to check SMTP_URL and MAIL_FROM."""
    settings = read_settings()
    if settings.smtp_url is None:
        raise click.ClickException("This service sends no mail. Set SMTP_URL and MAIL_FROM.")
    from email_validator import EmailNotValidError

    from app.mail.messages import check_templates, compose
    from app.mail.smtp import SendError, send

    check_templates(settings)
    try:
        asyncio.run(send(settings, compose(settings, "test", address, "")))
    except SendError as error:
        # The operator may read the server's text. It says more than the reply code.
        problem = f"Cannot send the mail ({error.step}): {as_text(error.error)}"
        raise click.ClickException(problem) from None
    except EmailNotValidError:
        message = f"{address!r} is not an e-mail address"
        raise click.BadParameter(message, param_hint="ADDRESS") from None
    click.echo(f"Sent a mail to {address}.")


mail.add_command(test_mail, "test")
