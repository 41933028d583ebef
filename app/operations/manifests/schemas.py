"""The form of the file. What it leaves out stays as it is."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.accounts.service_accounts.schemas import ServiceAccountName
from app.groups.names import GroupName
from app.users.login_account import normalize_username
from app.users.schemas import EmailChange, Scopes, Username

MAX_MEMBERS = 10_000  # of a group, and of each section


def _empty_if_missing(value: Any) -> Any:
    """`ada:` with nothing behind it."""
    return {} if value is None else value


def _check_distinct(names: Any) -> Any:
    """Of a list or a mapping, as names are compared."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(normalize_username(name), name)
        if other is not name:
            raise PydanticCustomError(
                "names", "{other} and {name} are the same name", {"other": other, "name": name}
            )
    return names


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Account(_Entry):
    is_enabled: bool | None = None
    is_admin: bool | None = None
    scopes: Scopes | None = None


class Person(Account):
    email: EmailChange | None = None  # an empty string removes the address


class GroupEntry(_Entry):
    scopes: Scopes | None = None
    # All of them: those who are not listed are removed.
    members: (
        Annotated[list[Username], Field(max_length=MAX_MEMBERS), AfterValidator(_check_distinct)]
        | None
    ) = None


_Persons = dict[Username, Annotated[Person, BeforeValidator(_empty_if_missing)]]
_ServiceAccounts = dict[ServiceAccountName, Annotated[Account, BeforeValidator(_empty_if_missing)]]
_Groups = dict[GroupName, Annotated[GroupEntry, BeforeValidator(_empty_if_missing)]]
_SECTION = (
    BeforeValidator(_empty_if_missing),
    Field(max_length=MAX_MEMBERS),
    AfterValidator(_check_distinct),
)


class Manifest(_Entry):
    """A section that is missing is None: pruning does not concern it."""

    prune: bool = False
    users: Annotated[_Persons, *_SECTION] | None = None
    service_accounts: Annotated[_ServiceAccounts, *_SECTION] | None = None
    groups: Annotated[_Groups, *_SECTION] | None = None
