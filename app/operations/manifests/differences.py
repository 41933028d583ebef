"""What a file would change."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.operations.manifests.errors import ManifestError
from app.operations.manifests.schemas import Account, GroupEntry, Manifest, Person
from app.operations.manifests.state import State
from app.tokens.jwt import PERSON, SERVICE
from app.users.login_account import normalize_username as normalize

Kind = Literal["user", "service account", "group"]
Values = Mapping[str, Any]

_KINDS: dict[str, Kind] = {PERSON: "user", SERVICE: "service account"}


@dataclass(frozen=True, slots=True)
class Change:
    """Only the values that change. Nothing before: it is created. Nothing after: it is deleted."""

    kind: Kind
    name: str
    before: Values
    after: Values

    @property
    def action(self) -> Literal["create", "update", "delete"]:
        if not self.before:
            return "create"
        return "update" if self.after else "delete"


def find_changes(manifest: Manifest, state: State) -> list[Change]:
    """In the order of the sections, and of names. Raises ManifestError for a member that does
    not exist, and for a name of the other kind of user."""
    problems: list[str] = []
    changes: list[Change] = []
    for kind, entries in ((PERSON, manifest.users), (SERVICE, manifest.service_accounts)):
        if entries is not None:
            changes += _changes_of_accounts(kind, entries, manifest, state, problems)
    if manifest.groups is not None:
        changes += _changes_of_groups(manifest.groups, manifest, state, problems)
    if problems:
        raise ManifestError("\n".join(problems))
    return changes


def _changes_of_accounts(
    kind: str,
    entries: Mapping[str, Person] | Mapping[str, Account],
    manifest: Manifest,
    state: State,
    problems: list[str],
) -> Iterator[Change]:
    for name, entry in _in_order(entries):
        found = state.accounts.get(normalize(name))
        if found is None:
            yield Change(_KINDS[kind], name, {}, _new_account(entry))
        elif found.kind != kind:
            problems.append(f"{name} is a {_KINDS[found.kind]}, and the file says {_KINDS[kind]}.")
        else:
            yield from _update(_KINDS[kind], found.name, found.values(), _given(entry))
    if manifest.prune:
        listed = {normalize(name) for name in entries}
        for folded, found in sorted(state.accounts.items()):
            if found.kind == kind and found.is_enabled and folded not in listed:
                yield from _update(_KINDS[kind], found.name, found.values(), {"is_enabled": False})


def _changes_of_groups(
    entries: Mapping[str, GroupEntry], manifest: Manifest, state: State, problems: list[str]
) -> Iterator[Change]:
    names = {folded: found.name for folded, found in state.accounts.items()}
    for section in (manifest.users, manifest.service_accounts):
        for name in section or ():
            names.setdefault(normalize(name), name)
    for name, entry in _in_order(entries):
        given: dict[str, Any] = {}
        if entry.scopes is not None:
            given["scopes"] = tuple(entry.scopes)
        if entry.members is not None:
            missing = [member for member in entry.members if normalize(member) not in names]
            problems += [f"groups.{name}.members: there is no user {member}." for member in missing]
            members = {normalize(member) for member in entry.members} & names.keys()
            given["members"] = tuple(names[folded] for folded in sorted(members))
        found = state.groups.get(normalize(name))
        if found is None:
            yield Change("group", name, {}, {"scopes": (), "members": ()} | given)
        else:
            yield from _update("group", found.name, found.values(), given)
    if manifest.prune:
        listed = {normalize(name) for name in entries}
        for folded, group in sorted(state.groups.items()):
            if folded not in listed:
                yield Change("group", group.name, group.values(), {})


def _new_account(entry: Account) -> Values:
    values: Values = {"email": None} if isinstance(entry, Person) else {}
    return {**values, "is_enabled": True, "is_admin": False, "scopes": (), **_given(entry)}


def _given(entry: Account) -> dict[str, Any]:
    """The values of the file, as they are in the database."""
    given = {name: value for name, value in entry if value is not None}
    if "scopes" in given:
        given["scopes"] = tuple(given["scopes"])
    if given.get("email") == "":
        given["email"] = None
    return given


def _update(kind: Kind, name: str, before: Values, given: Values) -> Iterator[Change]:
    changed = [key for key in before if key in given and before[key] != given[key]]
    if changed:
        yield Change(
            kind, name, {key: before[key] for key in changed}, {key: given[key] for key in changed}
        )


def _in_order(entries: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return sorted(entries.items(), key=lambda entry: normalize(entry[0]))
