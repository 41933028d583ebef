"""Applies a file in one transaction, with the operations that single commands use: the same rules,
audit entries and revocations."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.locks import lock_tables
from app.errors import ApiError, InvalidRequestError, UnavailableError
from app.groups.models import Group, GroupMember
from app.groups.service import is_narrower
from app.operations.manifests.differences import Change, find_changes
from app.operations.manifests.errors import ChangedMeanwhileError, ManifestError
from app.operations.manifests.schemas import Manifest
from app.operations.manifests.state import State, load_state
from app.services import Services
from app.users.models import User

# Adding a member is one, for example. A thousand take some seconds.
MAX_OPERATIONS = 1_000


class _Rank(IntEnum):
    """The order of operations, so that no rule refuses what is only there in between: scopes go
    before others come, or there would be too many for a token, and administrators come before
    others go."""

    REMOVE_MEMBER = 0
    DELETE_GROUP = 1
    NARROW_GROUP = 2
    CREATE_ACCOUNT = 3
    RAISE_ACCOUNT = 4
    CHANGE_ACCOUNT = 5
    WIDEN_GROUP = 6
    ADD_MEMBER = 7


class _Operation(NamedTuple):
    rank: _Rank
    change: Change
    run: Callable[[], Awaitable[Any]]


class Manifests:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def find_changes(self, context: RequestContext, manifest: Manifest) -> list[Change]:
        """Raises ManifestError, also if there are too many."""
        state = await _load(context, manifest)
        changes = find_changes(manifest, state)
        number = len(self._all_operations(context, changes, state))
        if number > MAX_OPERATIONS:
            raise ManifestError(
                f"The difference needs {number:,} operations, and {MAX_OPERATIONS:,} are possible "
                "at once, because a running service cannot write meanwhile. Split the file."
            )
        return changes

    async def apply(
        self, context: RequestContext, manifest: Manifest, confirmed: Sequence[Change]
    ) -> None:
        """Make the changes that were shown and confirmed. The session is one of
        Database.transaction(), which commits all of them or none.

        Raises ChangedMeanwhileError if they are no longer the same, and ManifestError for a change
        that a rule forbids.
        """
        await begin_write(context.session)
        # Until the last change, nobody else changes what was compared. Logins go on.
        await lock_tables(context.session, User, Group, GroupMember)
        state = await _load(context, manifest)
        if find_changes(manifest, state) != list(confirmed):
            raise ChangedMeanwhileError
        for operation in self._all_operations(context, confirmed, state):
            try:
                await operation.run()
            except UnavailableError:
                raise
            except ApiError as error:
                change = operation.change
                raise ManifestError(f"{change.kind} {change.name}: {_words(error)}.") from error

    def _all_operations(
        self, context: RequestContext, changes: Iterable[Change], state: State
    ) -> list[_Operation]:
        operations = [
            operation
            for change in changes
            for operation in self._operations(context, change, state)
        ]
        return sorted(operations, key=lambda operation: operation.rank)

    def _operations(
        self, context: RequestContext, change: Change, state: State
    ) -> Iterable[_Operation]:
        if change.kind == "group":
            return self._operations_on_group(context, change)
        return [self._operation_on_account(context, change, state)]

    def _operation_on_account(
        self, context: RequestContext, change: Change, state: State
    ) -> _Operation:
        if change.action == "create":
            return _Operation(_Rank.CREATE_ACCOUNT, change, lambda: self._create(context, change))
        rises = bool(change.after.get("is_admin") or change.after.get("is_enabled"))
        account = state.find_account(change.name)
        return _Operation(
            _Rank.RAISE_ACCOUNT if rises else _Rank.CHANGE_ACCOUNT,
            change,
            lambda: self._services.users.change(context, account.id, **_columns(change)),
        )

    async def _create(self, context: RequestContext, change: Change) -> None:
        values = dict(change.after)
        if change.kind == "user":
            user_id = await self._services.users.create(
                context,
                change.name,
                values.pop("email"),
                is_admin=values.pop("is_admin"),
                scopes=values.pop("scopes"),
            )
        else:
            account = await self._services.service_accounts.create(
                context, change.name, values.pop("scopes")
            )
            user_id = account.id
        if values.get("is_admin") or not values["is_enabled"]:
            await self._services.users.change(context, user_id, **values)

    def _operations_on_group(self, context: RequestContext, change: Change) -> Iterable[_Operation]:
        groups, name = self._services.groups, change.name
        before, after = (set(values.get("members", ())) for values in (change.before, change.after))
        if change.action == "delete":
            yield _Operation(_Rank.DELETE_GROUP, change, lambda: groups.delete(context, name))
            return
        if change.action == "create":
            scopes = change.after["scopes"]
            yield _Operation(
                _Rank.WIDEN_GROUP, change, lambda: groups.create(context, name, scopes)
            )
        elif "scopes" in change.after:
            scopes = change.after["scopes"]
            is_narrowed = is_narrower(" ".join(change.before["scopes"]), " ".join(scopes))
            yield _Operation(
                _Rank.NARROW_GROUP if is_narrowed else _Rank.WIDEN_GROUP,
                change,
                lambda: groups.update(context, name, scopes=scopes),
            )
        for rank, act, members in (
            (_Rank.REMOVE_MEMBER, groups.remove_member, before - after),
            (_Rank.ADD_MEMBER, groups.add_member, after - before),
        ):
            for member in sorted(members):
                yield _Operation(rank, change, self._on_member(context, act, name, member))

    def _on_member(
        self,
        context: RequestContext,
        act: Callable[[RequestContext, str, int], Awaitable[None]],
        group: str,
        username: str,
    ) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            user = await self._services.users.find(context, username)
            assert user
            await act(context, group, user.id)

        return run


async def _load(context: RequestContext, manifest: Manifest) -> State:
    """Those that the file names, or all of them if some would be pruned."""
    prunes_users = manifest.prune and (
        manifest.users is not None or manifest.service_accounts is not None
    )
    entries = manifest.groups or {}
    members = {member for entry in entries.values() for member in entry.members or ()}
    named = {*(manifest.users or ()), *(manifest.service_accounts or ()), *members}
    prunes_groups = manifest.prune and manifest.groups is not None
    return await load_state(
        context.session,
        None if prunes_users else named,
        None if prunes_groups else entries.keys(),
    )


def _columns(change: Change) -> dict[str, Any]:
    """As the table of users has them."""
    values = dict(change.after)
    if "scopes" in values:
        values["scopes"] = " ".join(values["scopes"])
    return values


def _words(error: ApiError) -> str:
    return str(error) if isinstance(error, InvalidRequestError) else error.describe()
