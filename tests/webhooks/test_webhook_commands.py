"""`hourpass webhooks` does what administrators can do over HTTP."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from httpx import AsyncClient

from tests.operations.test_cli import Command, assert_refused, hourpass
from tests.support.https_receiver import LOOPBACK, Receiver, answer, https_receiver
from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, register
from tests.support.webhooks import verified

__all__ = ["hourpass"]


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Receiver]:
    """Without TLS: the command trusts the authorities of the system only."""
    async with https_receiver(tmp_path, tls=False) as it:
        yield it


@on_sqlite
async def test_the_life_of_a_webhook_on_the_command_line(
    hourpass: Command, client: AsyncClient, plain: Receiver
) -> None:
    async def printed(*arguments: str, stdin: str = "") -> str:
        result = await hourpass("webhooks", *arguments, stdin=stdin, OUTBOUND_NETWORKS=LOOPBACK)
        assert result.exit_code == 0, result.output
        text: str = result.stdout
        return text

    url = f"http://127.0.0.1:{plain.port}/hook"
    created = await hourpass("webhooks", "create", url, OUTBOUND_NETWORKS=LOOPBACK)
    assert created.stderr == "Created the webhook 1. Its secret is not shown again:\n"
    secret = created.stdout.strip()
    made = json.loads(await printed("create", url, "--type", "user.deleted", "--json"))
    assert (made["id"], made["types"]) == (2, ["user.deleted"])
    assert made["secret"].startswith("whsec_")
    listed = await printed("list")
    assert listed.splitlines()[0].split() == ["ID", "STATE", "FAILING", "SINCE", "TYPES", "URL"]
    assert [line.split() for line in listed.splitlines()[1:]] == [
        ["1", "enabled", "all", url],
        ["2", "enabled", "user.deleted", url],
    ]
    assert secret not in listed
    records = [json.loads(line) for line in (await printed("list", "--json")).splitlines()]
    assert [record["id"] for record in records] == [1, 2]

    assert await printed("test", "1") == "Delivered: status 204.\n"
    assert verified(plain.requests[0], secret)["type"] == "webhook.test"
    plain.answers = [answer(500)]
    failed = await hourpass("webhooks", "test", "1", OUTBOUND_NETWORKS=LOOPBACK)
    assert_refused(failed, "Not delivered: status 500.")
    refused = await hourpass("webhooks", "test", "1")
    assert_refused(refused, "Not delivered: no response (address_not_allowed).")

    assert (await printed("rotate-secret", "1", "--overlap", "0")).startswith("whsec_")
    await register(client, LANCELOT)
    waiting = (await printed("deliveries")).splitlines()
    assert waiting[1].split()[:5] == ["1", "1", "user.created", "2", "0"]
    assert (await printed("deliveries", "2")).splitlines()[1:] == []
    assert await printed("disable", "1") == "Disabled the webhook 1.\n"
    assert await printed("deliveries", "--json") == ""
    dead = json.loads(await printed("dead-letters", "1", "--json"))
    assert (dead["webhook_id"], dead["id"], dead["state"]) == (1, 1, "dead")
    assert_refused(await hourpass("webhooks", "retry", "1"), "The webhook is disabled")
    assert await printed("enable", "1") == "Enabled the webhook 1.\n"
    assert_refused(await hourpass("webhooks", "retry", "1", "7"), "has no dead letter 7.")
    assert await printed("retry", "1") == "Sending 1 dead letter again.\n"
    assert (await printed("dead-letters")).splitlines()[1:] == []

    kept = await hourpass("webhooks", "delete", "1", stdin="n\n")
    assert kept.exit_code == 1
    assert f"Delete the webhook 1 to {url}?" in kept.stderr
    assert await printed("delete", "1", "--yes") == "Deleted the webhook 1.\n"
    assert_refused(await hourpass("webhooks", "deliveries", "1"), "Webhook not found")


@on_sqlite
async def test_errors_are_one_line(hourpass: Command, subtests: pytest.Subtests) -> None:
    for arguments, reason in (
        ("create http://10.0.0.1", "Must begin with https://"),
        ("create https://user@a.example", "Must not have a user or password"),
        ("test 7", "Webhook not found"),
        ("delete 7 --yes", "Webhook not found"),
        ("rotate-secret 7", "Webhook not found"),
        ("retry 7", "Webhook not found"),
        ("dead-letters 7", "Webhook not found"),
    ):
        with subtests.test(arguments):
            assert_refused(await hourpass("webhooks", *arguments.split()), reason)
    for wrong in ("create https://a.example --type user", "test 0"):
        with subtests.test(wrong):
            assert (await hourpass("webhooks", *wrong.split())).exit_code == 2
