"""Commands for webhooks."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from app.cli.operations import DATABASE_ID, PAGE_SIZE, check_arguments, run
from app.cli.output import Records, as_json, confirm, counted, print_json, yes
from app.webhooks.event_types import TYPES, EventType

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services
    from app.webhooks.schemas import WebhookRecord, WebhookWithSecret
    from app.webhooks.service import EndpointWithSecret

_DELIVERY_COLUMNS = {
    "id": 8,
    "webhook_id": 10,
    "type": 30,
    "user_id": 8,
    "attempts": 8,
    "due_at": 20,
    "last_status": 20,
    "created_at": 0,
}

_webhook_id = click.argument("webhook_id", metavar="ID", type=DATABASE_ID)


@click.group()
def webhooks() -> None:
    """Tell other servers what happens to users.

    Messages are signed by the rules of Standard Webhooks.
    """


@webhooks.command("list")
@as_json
def list_webhooks(*, as_json: bool) -> None:
    """List all webhooks."""

    async def read(services: "Services", context: "RequestContext") -> "list[WebhookRecord]":
        from app.webhooks.schemas import WebhookRecord

        found = await services.webhooks.list(context)
        return [WebhookRecord.of(endpoint, context.now) for endpoint in found]

    records = Records(as_json=as_json, id=5, state=18, failing_since=20, types=24, url=0)
    for record in run(read):
        types = "all" if len(record.types) == len(TYPES) else ",".join(record.types)
        records.add(record.model_dump(mode="json"), state=_state(record), types=types)


@webhooks.command()
@click.argument("url")
@click.option(
    "--type",
    "types",
    type=click.Choice(TYPES),
    multiple=True,
    help="Send only messages of this type. Can be repeated.  [default: all]",
)
@as_json
def create(url: str, types: Sequence[EventType], *, as_json: bool) -> None:
    """Send messages to URL.

    The secret goes to standard output, everything else to standard error. It is not shown again.
    """
    from app.webhooks.schemas import NewWebhook

    new = check_arguments(NewWebhook, {"url": url, "types": list(types)}, {"url": "URL"})
    _print_secret(
        lambda services, context: services.webhooks.create(context, new.url, new.types),
        "Created the webhook {id}. Its secret is not shown again:",
        as_json=as_json,
    )


@webhooks.command()
@_webhook_id
@click.option(
    "--overlap",
    type=click.IntRange(0, 604_800),
    default=86_400,
    show_default=True,
    help="Seconds for which messages are signed with both secrets.",
)
@as_json
def rotate_secret(webhook_id: int, overlap: int, *, as_json: bool) -> None:
    """Replace the secret of a webhook."""
    _print_secret(
        lambda services, context: services.webhooks.rotate_secret(
            context, webhook_id, timedelta(seconds=overlap)
        ),
        "Replaced the secret of the webhook {id}. The new one is not shown again:",
        as_json=as_json,
    )


@webhooks.command()
@_webhook_id
def enable(webhook_id: int) -> None:
    """Send new messages again. Dead letters wait for `hourpass webhooks retry`."""
    run(lambda services, context: services.webhooks.update(context, webhook_id, is_enabled=True))
    click.echo(f"Enabled the webhook {webhook_id}.")


@webhooks.command()
@_webhook_id
def disable(webhook_id: int) -> None:
    """Send no more messages. Those that wait become dead letters."""
    run(lambda services, context: services.webhooks.update(context, webhook_id, is_enabled=False))
    click.echo(f"Disabled the webhook {webhook_id}.")


@webhooks.command()
@_webhook_id
@yes
def delete(webhook_id: int, *, yes: bool) -> None:
    """Delete a webhook, its waiting messages and its dead letters."""
    endpoint = run(lambda services, context: services.webhooks.get(context, webhook_id))
    confirm(f"Delete the webhook {webhook_id} to {endpoint.url}?", is_confirmed=yes)
    run(lambda services, context: services.webhooks.delete(context, webhook_id))
    click.echo(f"Deleted the webhook {webhook_id}.")


@webhooks.command()
@_webhook_id
def test(webhook_id: int) -> None:
    """Send a message of the type webhook.test, and wait for the response."""
    result = run(lambda services, context: services.webhooks.test(context, webhook_id))
    outcome = f"status {result.status}" if result.status else f"no response ({result.reason})"
    if not result.is_delivered:
        raise click.ClickException(f"Not delivered: {outcome}.")
    click.echo(f"Delivered: {outcome}.")


@webhooks.command()
@click.argument("webhook_id", metavar="[ID]", type=DATABASE_ID, required=False)
@as_json
def deliveries(webhook_id: int | None, *, as_json: bool) -> None:
    """List the messages that wait for one webhook, or for all."""
    _list_deliveries(webhook_id, as_json=as_json, is_dead=False)


@webhooks.command()
@click.argument("webhook_id", metavar="[ID]", type=DATABASE_ID, required=False)
@as_json
def dead_letters(webhook_id: int | None, *, as_json: bool) -> None:
    """List the messages that were given up, of one webhook or of all."""
    _list_deliveries(webhook_id, as_json=as_json, is_dead=True)


@webhooks.command()
@_webhook_id
@click.argument("delivery_id", metavar="[DELIVERY]", type=click.IntRange(1), required=False)
def retry(webhook_id: int, delivery_id: int | None) -> None:
    """Send the dead letters of a webhook again: one, or all."""

    async def send_again(services: "Services", context: "RequestContext") -> int:
        return await services.webhooks.retry(context, webhook_id, delivery_id)

    number = run(send_again)
    if delivery_id and not number:
        raise click.ClickException(f"The webhook {webhook_id} has no dead letter {delivery_id}.")
    click.echo(f"Sending {counted(number, 'dead letter')} again.")


def _list_deliveries(webhook_id: int | None, *, as_json: bool, is_dead: bool) -> None:
    async def show(services: "Services", context: "RequestContext") -> None:
        """Page by page: there may be many."""
        from app.webhooks.errors import WebhookNotFoundError
        from app.webhooks.schemas import DeliveryRecord

        found = await services.webhooks.list(context)
        ids = [it.id for it in found if webhook_id in (None, it.id)]
        if webhook_id is not None and not ids:
            raise WebhookNotFoundError
        records = Records(as_json=as_json, **_DELIVERY_COLUMNS)
        for id_ in ids:
            last = 0
            while page := await services.webhooks.list_deliveries(
                context, id_, last, PAGE_SIZE, is_dead=is_dead
            ):
                for delivery in page:
                    record = DeliveryRecord.of(delivery)
                    members = {"webhook_id": id_, **record.model_dump(mode="json")}
                    records.add(members, last_status=record.last_error or record.last_status)
                last = page[-1].id
                context.session.expunge_all()

    run(show)


def _print_secret(
    operation: "Callable[[Services, RequestContext], Awaitable[EndpointWithSecret]]",
    message: str,
    *,
    as_json: bool,
) -> None:
    async def work(services: "Services", context: "RequestContext") -> "WebhookWithSecret":
        from app.webhooks.schemas import WebhookWithSecret

        return WebhookWithSecret.with_secret(await operation(services, context), context.now)

    record = run(work)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    click.echo(message.format(id=record.id), err=True)
    click.echo(record.secret)


def _state(record: "WebhookRecord") -> str:
    if record.is_enabled:
        return "enabled"
    return f"disabled ({record.disabled_reason})" if record.disabled_reason else "disabled"
