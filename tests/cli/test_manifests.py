"""`hourpass apply` makes the database what a file says, in one transaction, and `hourpass export`
writes that file."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import ascii_letters

import httpx
import pytest
from click.testing import Result
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from app.audit.models import Entry
from app.context import RequestContext
from app.database.engine import Database
from app.operations.manifests.errors import ChangedMeanwhileError
from app.operations.manifests.reader import read_manifest
from app.operations.manifests.service import MAX_OPERATIONS, Manifests
from app.services import Services
from app.settings import ROOT
from app.tokens.revocations.models import Revocation
from app.users.models import User
from tests.support.commands import Command, hourpass
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import utc_now
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    bearer,
    becomes_invalid,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
    user_revocation,
)

__all__ = ["hourpass"]  # a fixture

Apply = Callable[..., Awaitable[Result]]

LETTERS = ascii_letters[:30]

COURT = """\
users:
  galahad:
    email: galahad@camelot.example
    scopes: [predict]
  merlin:
    is_admin: true
    is_enabled: false
service_accounts:
  svc-scribe:
    scopes: [train]
groups:
  knights:
    scopes: ["predict:grail-*"]
    members: [galahad, Svc-Scribe]
"""


@pytest.fixture
def apply(hourpass: Command, tmp_path: Path) -> Apply:
    """`hourpass apply --yes` for a text."""

    async def run(content: str, *options: str, stdin: str = "") -> Result:
        file = tmp_path / "court.yaml"
        await asyncio.to_thread(file.write_text, content)
        return await hourpass("apply", str(file), *(options or ["--yes"]), stdin=stdin)

    return run


async def actions_in(app: FastAPI) -> list[str]:
    async with app.state.database.session() as session:
        return list(await session.scalars(select(Entry.action).order_by(Entry.id)))


async def traces_in(app: FastAPI) -> tuple[int, ...]:
    """How many there are of what a change leaves."""
    async with app.state.database.session() as session:
        counts = [
            await session.scalar(select(func.count()).select_from(table))
            for table in (User, Entry, Revocation)
        ]
    return tuple(count or 0 for count in counts)


@on_sqlite
async def test_what_the_file_leaves_out_stays(apply: Apply) -> None:
    for content in ("", "# nothing\n", "users:\n", "users:\n  arthur:\n"):
        result = await apply(content)
        assert (result.exit_code, result.output) == (0, "There is no difference.\n"), content


async def test_everything_that_is_missing_is_created(
    apply: Apply, client: httpx.AsyncClient, app: FastAPI
) -> None:
    before = await actions_in(app)
    result = await apply(COURT)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "+ user galahad\n"
        "    email: galahad@camelot.example\n"
        "    is_enabled: yes\n"
        "    is_admin: no\n"
        "    scopes: predict\n"
        "+ user merlin\n"
        "    email: none\n"
        "    is_enabled: no\n"
        "    is_admin: yes\n"
        "    scopes: none\n"
        "+ service account svc-scribe\n"
        "    is_enabled: yes\n"
        "    is_admin: no\n"
        "    scopes: train\n"
        "+ group knights\n"
        "    scopes: predict:grail-*\n"
        "    members: galahad svc-scribe\n"
        "Applied 4 changes.\n"
        "Without a password yet: galahad, merlin. Reset the password of each to get a code.\n"
    )
    assert (await actions_in(app))[len(before) :] == [
        *("user.register", "user.register", "user.disable", "service_account.create"),
        *("group.create", "group.add_member", "group.add_member"),
    ]
    headers = bearer(await log_in(client, ARTHUR))
    page = (await client.get("/users", headers=headers)).json()["users"]
    shown = {user["username"]: user for user in page}
    assert shown["galahad"]["scopes"] == ["predict"]
    assert shown["galahad"]["groups"] == shown["svc-scribe"]["groups"] == ["knights"]
    assert shown["galahad"]["email"] == GALAHAD["email"]
    assert (shown["merlin"]["is_admin"], shown["merlin"]["is_enabled"]) == (True, False)
    again = await apply(COURT)
    assert again.output == "There is no difference.\n"


@on_sqlite
async def test_a_new_user_logs_in_after_a_password_reset(
    apply: Apply, client: httpx.AsyncClient
) -> None:
    assert (await apply(COURT)).exit_code == 0
    assert (await client.post("/token", json={**GALAHAD, "password": "!"})).status_code == 401
    headers = bearer(await log_in(client, ARTHUR))
    page = (await client.get("/users?search=galahad", headers=headers)).json()
    path = f"/users/{page['users'][0]['id']}/password-reset"
    code = (await client.post(path, headers=headers, json={})).json()["code"]
    body = {"code": code, "new_password": GALAHAD["password"]}
    assert (await client.post("/password-resets/confirm", json=body)).status_code == 200
    token = await log_in(client, GALAHAD)
    assert claims_of(token)["scope"] == "predict predict:grail-*"


@on_sqlite
async def test_changes_are_shown_before_and_after_and_revoke_as_single_commands_do(
    apply: Apply, client: httpx.AsyncClient, app: FastAPI
) -> None:
    await register(client, GALAHAD)
    await register(client, LANCELOT)
    assert (await apply("groups: {knights: {scopes: [a], members: [lancelot]}}")).exit_code == 0
    galahads = await log_in(client, GALAHAD)
    lancelots = await open_session(client, LANCELOT)
    before = len(await actions_in(app))
    result = await apply(
        "users:\n"
        "  GALAHAD: {email: grail@camelot.example, scopes: [train, predict]}\n"
        "groups:\n"
        "  Knights: {scopes: [a, b], members: [galahad]}\n"
    )
    assert result.stdout == (
        "~ user galahad\n"
        f"    email: {GALAHAD['email']} → grail@camelot.example\n"
        "    scopes: none → predict train\n"
        "~ group knights\n"
        "    scopes: a → a b\n"
        "    members: lancelot → galahad\n"
        "Applied 2 changes.\n"
    )
    assert (await actions_in(app))[before:] == [
        *("group.remove_member", "user.grant", "user.change_email"),
        *("group.update", "group.add_member"),
    ]
    assert await becomes_invalid(client, galahads)
    assert await becomes_invalid(client, lancelots["token"])
    async with app.state.database.session() as session:
        revoked = set(await session.scalars(select(Revocation.value)))
    assert {user_revocation(galahads), user_revocation(lancelots["token"])} <= revoked
    assert (await refresh(client, lancelots["refresh_token"])).status_code == 200


@on_sqlite
async def test_disabling_revokes_and_enabling_does_not_bring_tokens_back(
    apply: Apply, client: httpx.AsyncClient
) -> None:
    await register(client, GALAHAD)
    token = await log_in(client, GALAHAD)
    result = await apply("users: {galahad: {is_enabled: false}}")
    assert "is_enabled: yes → no" in result.stdout
    assert await becomes_invalid(client, token)
    assert (await client.post("/token", json=GALAHAD)).status_code == 401
    assert (await apply("users: {galahad: {is_enabled: true}}")).exit_code == 0
    assert await token_is_valid(client, await log_in(client, GALAHAD))
    assert not await token_is_valid(client, token)


FORBIDDEN = (
    (
        "the last administrator, pruned",
        "prune: true\nusers: {percival: {}}",
        "Error: user arthur: Not allowed for the last administrator who can log in.",
    ),
    (
        "the other administrator has no password",
        "users: {percival: {is_admin: true}, arthur: {is_enabled: false}}",
        "Error: user arthur: Not allowed for the last administrator who can log in.",
    ),
    (
        "scopes that are too long for a token",
        f"users: {{percival: {{scopes: [{', '.join('x' * 120 + n for n in LETTERS)}]}}}}",
        "Error: user percival: scopes: An access token with these scopes could have",
    ),
    (
        "the name of a service account",
        "users: {percival: {}, svc-percival: {}}",
        "Error: user svc-percival: username: Must not begin with svc-",
    ),
    (
        "an unknown member",
        "users: {percival: {}}\ngroups: {knights: {members: [mordred]}}",
        "Error: groups.knights.members: there is no user mordred.",
    ),
    (
        "too many groups, noticed last",
        "users: {percival: {}}\ngroups: {"
        + ", ".join(f"g{n}: {{members: [percival]}}" for n in range(21))
        + "}",
        "Error: group g9: The user is in 20 groups, which is the maximum.",
    ),
)


async def test_if_a_rule_forbids_one_change_none_is_made(apply: Apply, app: FastAPI) -> None:
    before = await traces_in(app)
    result = await apply("users: {percival: {}, arthur: {is_admin: false}}")
    assert result.exit_code == 1
    reason = "user arthur: Not allowed for the last administrator who can log in."
    assert result.stderr.endswith(f"Error: {reason}\n")
    assert await traces_in(app) == before


@on_sqlite
async def test_a_file_can_do_no_more_than_single_commands(
    apply: Apply, app: FastAPI, subtests: pytest.Subtests
) -> None:
    before = await traces_in(app)
    for name, content, problem in FORBIDDEN:
        with subtests.test(name):
            result = await apply(content)
            assert result.exit_code == 1
            assert problem in result.stderr
            assert await traces_in(app) == before


@on_sqlite
async def test_the_number_of_operations_is_limited(
    apply: Apply, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them would keep a service waiting."""
    assert f"at most {MAX_OPERATIONS:,} changes" in (ROOT / "docs/apply.md").read_text()
    monkeypatch.setattr("app.operations.manifests.service.MAX_OPERATIONS", 2)
    before = await traces_in(app)
    result = await apply("users: {percival: {}, bors: {}, gawain: {}}")
    assert result.exit_code == 1
    assert "needs 3 operations, and 2 are possible" in result.stderr
    assert await traces_in(app) == before
    assert (await apply("users: {percival: {}, bors: {}}")).exit_code == 0


@on_sqlite
async def test_one_file_can_replace_the_last_administrator(
    apply: Apply, client: httpx.AsyncClient
) -> None:
    await register(client, GALAHAD)
    result = await apply("users: {arthur: {is_admin: false}, galahad: {is_admin: true}}")
    assert result.exit_code == 0, result.output
    profile = await client.get("/me", headers=bearer(await log_in(client, GALAHAD)))
    assert profile.json()["is_admin"] is True


@on_sqlite
async def test_scopes_move_between_groups_although_a_token_has_no_room_for_both(
    apply: Apply,
) -> None:
    many = "[" + ", ".join(f"{'x' * 90}{number}" for number in range(9)) + "]"
    file = "users: {{galahad: {{}}}}\ngroups: {{a: {{scopes: {}, members: [galahad]}}, {} }}"
    other = "b: {{scopes: {}, members: [galahad]}}"
    assert (await apply(file.format(many, other.format("[]")))).exit_code == 0
    swapped = many.replace("x", "y")
    result = await apply(file.format("[]", other.format(swapped)))
    assert result.exit_code == 0, result.output
    result = await apply(file.format(many, other.format("[]")))
    assert result.exit_code == 0, result.output


@on_sqlite
async def test_pruning_disables_users_and_deletes_groups(
    apply: Apply, client: httpx.AsyncClient
) -> None:
    await register(client, LANCELOT)
    assert (await apply(COURT)).exit_code == 0
    content = "users: {arthur: {}, lancelot: {}}\ngroups: {}\n"
    result = await apply(content)
    assert result.stdout == "There is no difference.\n"
    result = await apply(content, "--prune", "--yes")
    assert result.stdout == (
        "~ user galahad\n"
        "    is_enabled: yes → no\n"
        "- group knights\n"
        "    scopes: predict:grail-*\n"
        "    members: galahad svc-scribe\n"
        "Applied 2 changes.\n"
    )
    for same in (content, "prune: true\n" + content):
        assert (await apply(same, "--prune", "--yes")).stdout == "There is no difference.\n"
    result = await apply("prune: true\nservice_accounts: {}\n")
    assert result.stdout.startswith("~ service account svc-scribe\n    is_enabled: yes → no\n")


@on_sqlite
async def test_nothing_changes_without_a_yes(apply: Apply, app: FastAPI) -> None:
    before = await traces_in(app)
    for options, stdin, status in (
        (["--dry-run"], "", 0),
        (["--check"], "", 1),
        (["--json"], "n\n", 1),
        (["--json"], "", 1),
    ):
        result = await apply(COURT, *options, stdin=stdin)
        assert result.exit_code == status, options
        assert "galahad" in result.stdout
    assert "Apply 4 changes? [y/N]" in result.stderr
    assert await traces_in(app) == before
    result = await apply(COURT, "--json", stdin="y\n")
    assert result.exit_code == 0
    first, *_ = map(json.loads, result.stdout.splitlines())
    assert (first["action"], first["kind"], first["name"]) == ("create", "user", "galahad")
    assert first["before"] == {}
    assert first["after"]["scopes"] == ["predict"]
    assert (await apply(COURT, "--check")).exit_code == 0


async def test_a_change_by_others_after_the_question_stops_everything(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    await register(client, GALAHAD)
    services: Services = app.state.services
    database: Database = app.state.database
    manifest = read_manifest(b"users: {galahad: {scopes: [predict]}, percival: {}}", "team.yaml")
    manifests = Manifests(services)
    async with database.session() as session:
        context = RequestContext(session, utc_now())
        confirmed = await manifests.find_changes(context, manifest)
        user = await services.users.find(context, "galahad")
        assert user
        await services.users.set_scopes(context, user.id, {"train"})
    before = await traces_in(app)
    with pytest.raises(ChangedMeanwhileError):
        async with database.transaction() as session:
            await manifests.apply(RequestContext(session, utc_now()), manifest, confirmed)
    assert await traces_in(app) == before


@on_postgresql
async def test_nobody_else_changes_a_user_before_the_last_change_is_committed(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """On SQLite, there is one writer at a time anyway."""
    user_id = await register(client, GALAHAD)
    database: Database = app.state.database
    manifests = Manifests(app.state.services)
    manifest = read_manifest(b"users: {percival: {}}", "team.yaml")
    async with database.transaction() as session:
        context = RequestContext(session, utc_now())
        confirmed = await manifests.find_changes(context, manifest)
        await manifests.apply(context, manifest, confirmed)
        async with database.engine.connect() as other:
            await other.execute(text("SET LOCAL lock_timeout = '10ms'"))
            update = text("UPDATE users SET is_enabled = false WHERE id = :id")
            with pytest.raises(DBAPIError, match="lock timeout"):
                await other.execute(update, {"id": user_id})
        assert (await client.post("/token", json=GALAHAD)).status_code == 200


@on_sqlite
async def test_the_export_has_everything_and_no_secret(
    hourpass: Command, apply: Apply, app: FastAPI
) -> None:
    assert (await apply(COURT)).exit_code == 0
    result = await hourpass("export")
    assert result.exit_code == 0
    assert result.stdout == (
        "users:\n"
        "  arthur:\n"
        "    is_enabled: true\n"
        "    is_admin: true\n"
        "    scopes: []\n"
        "  galahad:\n"
        "    email: galahad@camelot.example\n"
        "    is_enabled: true\n"
        "    is_admin: false\n"
        "    scopes:\n"
        "    - predict\n"
        "  merlin:\n"
        "    is_enabled: false\n"
        "    is_admin: true\n"
        "    scopes: []\n"
        "service_accounts:\n"
        "  svc-scribe:\n"
        "    is_enabled: true\n"
        "    is_admin: false\n"
        "    scopes:\n"
        "    - train\n"
        "groups:\n"
        "  knights:\n"
        "    scopes:\n"
        "    - predict:grail-*\n"
        "    members:\n"
        "    - galahad\n"
        "    - svc-scribe\n"
    )
    async with app.state.database.session() as session:
        hashes = list(await session.scalars(select(User.password_hash)))
    assert not [hash_ for hash_ in hashes if len(hash_) > 1 and hash_ in result.stdout]


@on_sqlite
@pytest.mark.first_start
async def test_the_page_shows_what_the_commands_print(hourpass: Command, tmp_path: Path) -> None:
    page = (ROOT / "docs/apply.md").read_text()
    blocks = re.findall(r"^```(yaml|text)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (_, first), (_, created), (_, second), (_, changed), (_, exported) = blocks
    file = tmp_path / "team.yaml"
    for content, printed in ((first, created), (second, changed)):
        await asyncio.to_thread(file.write_text, content)
        result = await hourpass("apply", str(file), stdin="y\n")
        assert result.exit_code == 0, result.output
        assert result.output == printed
    assert (await hourpass("export")).stdout == exported
