"""Reads what the exchange of a key needs, in one query and without making ORM objects."""

from datetime import datetime
from hmac import compare_digest
from typing import NamedTuple

from sqlalchemy import bindparam, select

from app.context import RequestContext
from app.credentials.api_keys.fingerprints import hash_key
from app.credentials.api_keys.models import ApiKey
from app.database import fast_queries
from app.users.models import User
from hourpass.api_keys import id_of


class KeyOwner(NamedTuple):
    id: int
    username: str
    kind: str
    is_enabled: bool
    is_admin: bool
    scopes: str
    token_version: int

    def granted_scopes(self) -> set[str]:
        """All scopes that tokens of this user can have."""
        return {*self.scopes.split(), *(["admin"] if self.is_admin else [])}


class StoredKey(NamedTuple):
    id: str
    secret_hash: bytes
    version: int
    scopes: str | None
    networks: str | None
    created_at: datetime
    expires_at: datetime
    suspended_at: datetime | None
    revoked_at: datetime | None


_SELECT = (
    select(
        *(getattr(ApiKey, name) for name in StoredKey._fields),
        *(getattr(User, name) for name in KeyOwner._fields),
    )
    .join(User, User.id == ApiKey.user_id)
    .where(ApiKey.id == bindparam("key_id"))
)
_NO_HASH = bytes(32)


async def find_key(context: RequestContext, key: str) -> tuple[StoredKey, KeyOwner] | None:
    """Find a well-formed key and its owner. The key may be suspended, revoked or expired. A wrong
    secret takes as long as an unknown id."""
    rows = await fast_queries.run(context.session, _SELECT, {"key_id": id_of(key)})
    values = rows[0] if rows else None
    stored = StoredKey(*values[: len(StoredKey._fields)]) if values else None
    is_right = compare_digest(stored.secret_hash if stored else _NO_HASH, hash_key(key))
    if stored is None or values is None or not is_right:
        return None
    return stored, KeyOwner(*values[len(StoredKey._fields) :])
