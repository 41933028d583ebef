"""Applying an export changes nothing in its own database, and makes another one the same."""

import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.context import RequestContext
from app.database.engine import Database
from app.operations.manifests.export import export
from app.operations.manifests.reader import read_manifest
from app.operations.manifests.service import Manifests
from app.services import Services, build_services
from tests.support import database_templates as templates
from tests.support.database_templates import Postgres
from tests.support.settings import make_settings, utc_now


@pytest.fixture
def empty_twin(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Another database of the same kind in which Arthur is the only user."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{shutil.copy(templates.started_sqlite(), tmp_path / 'twin.db')}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(templates.started_postgres()) as url:
        yield url


# YAML reads most of them as something else, unless they are in quotes.
TRICKY = (
    *("yes", "No", "on", "null", "~", "123", "1_000", "0x1f", "1e3", "2026-01-01", "12:30:45"),
    *("#hash", "- dash", "a: b", "{x}", "[y]", "&anchor", "*alias", "!tag", "'quoted'", '"', "%"),
    *("straße", "ﬁsh", "Ünal", "漢字", "= equals", "<<", "...", "---x", "@at", "`tick`", "?", "|"),
)
GROUP_NAMES = ("yes", "No", "123", "1.5", "0x1f", "1e3", "2026-01-01", "straße", "漢字", "a.b-c_d")
SCOPES = ("predict", "yes", "1", "predict:fraud-*", "null", "~", "a.b", "!x", "#y", "[z]")


async def build_state(
    services: Services, context: RequestContext, names: Sequence[str], random: Random
) -> None:
    """A state with these users."""
    ids = []
    for name in names:
        email = f"{random.randrange(9)}@camelot.example" if random.random() < 0.5 else None
        scopes = random.sample(SCOPES, random.randrange(4))
        is_admin = random.random() < 0.2
        ids.append(
            await services.users.create(context, name, email, is_admin=is_admin, scopes=scopes)
        )
    for name in GROUP_NAMES:
        account = await services.service_accounts.create(
            context, f"svc-{name}", random.sample(SCOPES, random.randrange(3))
        )
        ids.append(account.id)
        await services.groups.create(context, name, random.sample(SCOPES, random.randrange(4)))
        for user_id in random.sample(ids, random.randrange(5)):
            await services.groups.add_member(context, name, user_id)
    for user_id in random.sample(ids, 9):
        await services.users.change(context, user_id, is_enabled=random.random() < 0.5)


async def test_an_export_changes_nothing_and_makes_another_database_the_same(
    database_url: str, empty_twin: str
) -> None:
    async def within(url: str, work: Callable[[Services, RequestContext], Awaitable[Any]]) -> Any:
        settings = make_settings(url)
        services, database = build_services(settings), Database(settings)
        try:
            async with database.transaction() as session:
                return await work(services, RequestContext(session, utc_now()))
        finally:
            services.close()
            await database.close()

    async def apply_exported(services: Services, context: RequestContext) -> int:
        manifests = Manifests(services)
        manifest = read_manifest(exported.encode(), "team.yaml")
        manifest = manifest.model_copy(update={"prune": True})
        changes = await manifests.find_changes(context, manifest)
        await manifests.apply(context, manifest, changes)
        return len(changes)

    # YAML is the same on both databases. PostgreSQL may sort names in another order.
    names = TRICKY if database_url.startswith("sqlite") else TRICKY[::3]
    await within(database_url, lambda s, context: build_state(s, context, names, Random(1)))
    exported = await within(database_url, lambda _, context: export(context))
    assert await within(database_url, apply_exported) == 0
    assert await within(empty_twin, apply_exported) > 10
    assert await within(empty_twin, lambda _, context: export(context)) == exported
