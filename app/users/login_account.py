"""Finds the account of a login by its name, without making an ORM object."""

import unicodedata
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, select, update

from app.context import RequestContext
from app.database import fast_queries
from app.database.engine import begin_write
from app.users.models import User


class LoginAccount(NamedTuple):
    id: int
    username: str
    password_hash: str
    is_enabled: bool
    is_admin: bool
    scopes: str
    token_version: int
    has_second_factor: bool
    has_groups: bool

    def granted_scopes(self) -> set[str]:
        """All scopes that tokens of this user can have."""
        return {*self.scopes.split(), *(["admin"] if self.is_admin else [])}


def normalize_username(username: str) -> str:
    """The form in which usernames are compared: NFKC, case folded."""
    folded = unicodedata.normalize("NFKC", username).casefold()
    return unicodedata.normalize("NFKC", folded)


async def find_login_account(
    context: RequestContext,
    username: str,
    has_second_factor: ColumnElement[bool],
    has_groups: ColumnElement[bool],
) -> LoginAccount | None:
    """The user with that name. The conditions must be constants, because the query is compiled
    once."""
    if "\0" in username:
        return None  # PostgreSQL refuses it even in a query
    statement = _select(has_second_factor, has_groups)
    name = normalize_username(username)
    rows = await fast_queries.run(context.session, statement, {"name": name})
    return LoginAccount(*rows[0]) if rows else None


async def upgrade_password_hash(
    context: RequestContext, user: LoginAccount, password_hash: str
) -> None:
    """Replace an outdated hash of the same password. Tokens stay valid."""
    await begin_write(context.session)
    await context.session.execute(
        update(User)
        # Not if the password has been changed in the meantime.
        .where(User.id == user.id, User.password_hash == user.password_hash)
        .values(password_hash=password_hash)
    )
    await context.session.commit()


@cache
def _select(*conditions: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    columns = (getattr(User, name) for name in LoginAccount._fields[: -len(conditions)])
    return select(*columns, *conditions).where(User.username_folded == bindparam("name"))
