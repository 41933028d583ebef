"""`hourpass api-keys`: a new key is shown once, on standard output alone. Commands have stable exit
statuses, and JSON for programs.
"""

import json

import pytest
from httpx import AsyncClient

from hourpass.api_keys import id_of, is_well_formed
from tests.operations.test_cli import Command, assert_refused, hourpass
from tests.support.key_calls import keys_of
from tests.support.markers import on_sqlite
from tests.support.users import GALAHAD, LANCELOT, register

__all__ = ["hourpass"]


@on_sqlite
async def test_the_life_of_a_key_on_the_command_line(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    made = await hourpass("api-keys", "create", "lancelot", "nightly batch", "--label", "churn")
    assert made.exit_code == 0
    key = made.stdout.removesuffix("\n")
    assert is_well_formed(key)
    key_id = id_of(key)
    assert made.stderr.startswith(f"Created the API key {key_id} (nightly batch) of lancelot. It ")
    options = ("--network", "192.0.2.0/24", "--network", "::/0", "--days", "1", "--json")
    other = await hourpass("api-keys", "create", "galahad", "json", *options)
    record = json.loads(other.stdout)
    assert is_well_formed(record["key"])
    assert (record["owner"], record["networks"]) == ("galahad", ["192.0.2.0/24", "::/0"])
    listed = (await hourpass("api-keys", "list", "LANCELOT")).stdout.splitlines()
    assert listed[0].startswith("ID        OWNER ")
    assert listed[1].split()[:3] == [key_id, "lancelot", "active"]
    assert listed[1].endswith("never       the owner's               nightly batch (churn)")
    assert len(listed) == 2
    everybodys = (await hourpass("api-keys", "list", "--all", "--json")).stdout.splitlines()
    owners = {entry["id"]: entry["owner"] for entry in map(json.loads, everybodys)}
    assert owners == {key_id: "lancelot", record["id"]: "galahad"}
    keys = await keys_of(client, LANCELOT)
    shown = json.loads((await hourpass("api-keys", "show", key_id, "--json")).stdout)
    assert (shown["owner"], shown["name"], shown["label"]) == ("lancelot", "nightly batch", "churn")
    changed = await hourpass("api-keys", "change", key_id, "--label", "", "--scope", "predict")
    assert_refused(changed, "scopes: ")
    changed = await hourpass("api-keys", "change", key_id, "--label", "", "--days", "3")
    assert changed.stdout == f"Changed the API key {key_id} (nightly batch) of lancelot.\n"
    assert (await keys.get(key_id))["label"] is None
    suspended = await hourpass("api-keys", "suspend", key_id)
    assert suspended.stdout == f"Suspended the API key {key_id} (nightly batch) of lancelot.\n"
    assert (await keys.get(key_id))["status"] == "suspended"
    assert_refused(await hourpass("api-keys", "rotate", key_id), "The API key is suspended")
    resumed = await hourpass("api-keys", "resume", key_id, "--json")
    assert json.loads(resumed.stdout)["status"] == "active"
    rotated = await hourpass("api-keys", "rotate", key_id, "--overlap", "60")
    successor = id_of(rotated.stdout.strip())
    assert (await keys.get(key_id))["replaced_by"] == successor
    assert_refused(await hourpass("api-keys", "rotate", key_id), "was already rotated")
    asked = await hourpass("api-keys", "revoke", successor, stdin="n\n")
    assert asked.exit_code == 1
    assert (await keys.get(successor))["status"] == "active"
    assert (await hourpass("api-keys", "revoke", successor, stdin="y\n")).exit_code == 0
    whole_key = await hourpass("api-keys", "revoke", key, "--yes")
    assert whole_key.stdout == f"Revoked the API key {key_id} (nightly batch) of lancelot.\n"
    assert await keys.names() == []


@on_sqlite
async def test_what_the_command_refuses(
    hourpass: Command, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    for arguments, status, reason in (
        (("list",), 2, "Give either the name of a user or --all."),
        (("list", "lancelot", "--all"), 2, "Give either the name of a user or --all."),
        (("list", "mordred"), 1, "User not found"),
        (("create", "mordred", "x"), 1, "User not found"),
        (("create", "lancelot", ""), 2, "Invalid value for KEYNAME"),
        (
            ("create", "lancelot", "x", "--scope", "teach"),
            1,
            "owner of the key does not have teach",
        ),
        (
            ("create", "lancelot", "x", "--scope", "a:*b"),
            2,
            "Invalid value for --scope: A * stands",
        ),
        (("create", "lancelot", "x", "--network", "::1"), 2, "--network: Write ::1/128"),
        (("create", "lancelot", "x", "--days", "367"), 2, "367 is not in the range"),
        (("rotate", "00000000"), 1, "API key not found"),
        (("rotate", "00000000", "--overlap", "604801"), 2, "is not in the range"),
        (("change", "00000000"), 2, "Give at least one option."),
        (("change", "00000000", "--name", "x"), 1, "API key not found"),
        (("change", "00000000", "--network", "::1"), 2, "--network: Write ::1/128"),
        (("suspend", "\udcff"), 2, "must be text in UTF-8"),
        (("suspend", "0000000\u00e9"), 1, "API key not found"),
        (("revoke", "x" * 10_000, "--yes"), 1, "API key not found"),
    ):
        with subtests.test(" ".join(arguments)[:60].encode("ascii", "replace").decode()):
            result = await hourpass("api-keys", *arguments)
            assert result.exit_code == status, result.output
            assert reason in result.output
    assert await (await keys_of(client, LANCELOT)).names() == []
