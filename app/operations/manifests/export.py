"""Writes what the database has in the form of the file, without secrets. Sorted, so that two
exports differ only where the databases do."""

from collections.abc import Mapping
from typing import Any

import yaml

from app.context import RequestContext
from app.operations.manifests.state import load_state
from app.tokens.jwt import PERSON, SERVICE


async def export(context: RequestContext) -> str:
    state = await load_state(context.session)
    sections: dict[str, dict[str, Any]] = {"users": {}, "service_accounts": {}, "groups": {}}
    section_of = {PERSON: sections["users"], SERVICE: sections["service_accounts"]}
    for _, account in sorted(state.accounts.items()):
        section_of[account.kind][account.name] = _entry(account.values())
    for _, group in sorted(state.groups.items()):
        sections["groups"][group.name] = _entry(group.values())
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


def _entry(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }
