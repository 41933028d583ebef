"""`hourpass groups`: a change that revokes tokens is shown, and needs a confirmation."""

import json
import re

import pytest
from httpx import AsyncClient

from tests.support.commands import Command, assert_refused, hourpass
from tests.support.markers import on_sqlite
from tests.support.users import GALAHAD, LANCELOT, becomes_invalid, claims_of, log_in, register

__all__ = ["hourpass"]

NONE = "no scopes"


def rows(table: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [re.split("  +", line) for line in table.splitlines()[1:]]


@on_sqlite
async def test_the_life_of_a_group(hourpass: Command, client: AsyncClient) -> None:
    async def printed(*arguments: str, stdin: str = "") -> str:
        result = await hourpass("groups", *arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    await register(client, LANCELOT)
    await register(client, GALAHAD)
    assert await printed("create", "Knights", "predict:*") == "Created the group Knights.\n"
    made = json.loads(await printed("create", "squires", "--json"))
    assert (made["name"], made["scopes"]) == ("squires", [])
    assert rows(await printed("list")) == [["1", "Knights", "predict:*"], ["2", "squires", NONE]]
    as_json = map(json.loads, (await printed("list", "--json")).splitlines())
    assert [group["name"] for group in as_json] == ["Knights", "squires"]
    assert await printed("add", "knights", "lancelot", "GALAHAD") == (
        "In knights: lancelot, GALAHAD.\n"
    )
    first, *table = (await printed("show", "knights")).splitlines()
    assert first == "Knights: predict:*"
    members = [["2", "lancelot", "person"], ["3", "galahad", "person"]]
    assert rows("\n".join(table)) == members
    shown = json.loads(await printed("show", "knights", "--json"))
    assert shown["members"][0] == {"id": 2, "username": "lancelot", "kind": "person"}
    token = await log_in(client, LANCELOT)
    assert claims_of(token)["scope"] == "predict:*"

    wider = await printed("set-scopes", "knights", "predict:*", "train")  # asks nothing
    assert wider == "knights: predict:* -> predict:* train\n"
    refused = await hourpass("groups", "set-scopes", "knights", "predict:a", stdin="n\n")
    assert refused.exit_code == 1
    assert "predict:* train -> predict:a. Revoke the access tokens" in refused.stderr
    assert (await printed("show", "knights")).startswith("Knights: predict:* train\n")
    narrower = await printed("set-scopes", "knights", "predict:a", "--yes", "--json")
    assert json.loads(narrower)["scopes"] == ["predict:a"]
    assert await becomes_invalid(client, token)
    assert await printed("rename", "knights", "table") == "knights -> table\n"

    token = await log_in(client, GALAHAD)
    removed = await printed("remove", "table", "galahad", stdin="y\n")
    assert removed == "Removed galahad from table.\n"
    assert await becomes_invalid(client, token)
    token = await log_in(client, LANCELOT)
    assert "Deleted the group table." in await printed("delete", "table", stdin="y\n")
    assert await becomes_invalid(client, token)
    assert rows(await printed("list")) == [["2", "squires", NONE]]


@on_sqlite
async def test_errors_are_one_line(hourpass: Command, subtests: pytest.Subtests) -> None:
    assert (await hourpass("groups", "create", "table")).exit_code == 0
    for arguments, reason in (
        ("show nobody", "Group not found"),
        ("delete nobody --yes", "Group not found"),
        ("set-scopes nobody x", "Group not found"),
        ("add table nobody", "User not found"),
        ("remove table arthur --yes", "not a member"),
        ("create TABLE", "exists"),
    ):
        with subtests.test(arguments):
            assert_refused(await hourpass("groups", *arguments.split()), reason)


@on_sqlite
async def test_names_and_scopes_are_checked_first(
    hourpass: Command, subtests: pytest.Subtests
) -> None:
    for arguments in ("create ..", "create a admin", r"create a x\y", "rename table a/b"):
        with subtests.test(arguments):
            result = await hourpass("groups", *arguments.split())
            assert result.exit_code == 2
            assert "Invalid value for" in result.output
