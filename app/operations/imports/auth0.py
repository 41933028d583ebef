"""Reads Auth0's export of users, and the file with password hashes that its support provides."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.operations.imports import values
from app.operations.imports.errors import LeftOutError, Reason
from app.operations.imports.json_files import read_records
from app.operations.imports.reader import Reader

_PREFIX = "auth0|"  # of the ids of users with a password


class Auth0Reader(Reader):
    """The file may be either of the two. With the option `hashes`, it is the export of users."""

    _hashes: Mapping[str, str] | None = None

    def accepted_options(self) -> frozenset[str]:
        return frozenset({"hashes"})

    def records(self) -> Iterator[Any]:
        if self._hashes is None and self._options.hashes is not None:
            # Of ids and hashes only: about 300 bytes for each user.
            self._hashes = dict(_read_hashes(read_records(self._options.hashes)))
        return read_records(self._path)

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        identifier = _identifier(record)
        blocked = record.get("blocked")
        found = values.read_fields(
            {
                "username": record.get("username"),
                "email": record.get("email") or identifier.get("value"),
                "email_verified": record.get("email_verified", identifier.get("verified")),
                "created_at": record.get("created_at"),
                "password_hash": self._hash_of(record),
            }
        )
        found["is_enabled"] = not (blocked is not None and blocked != "" and values.flag(blocked))
        metadata = record.get("app_metadata") or {}
        found["roles"] = values.names(values.members(metadata).get("roles") or [])
        factors = record.get("mfa_factors") or []
        for factor in factors if isinstance(factors, list) else [factors]:
            try:
                secret = values.members(values.members(factor).get("totp")).get("secret")
                found["totp_secret"] = values.totp_secret(secret)
            except LeftOutError:
                detail = "It is not TOTP, or its secret cannot be read"
                found["second_factor_fault"] = LeftOutError(Reason.SECOND_FACTOR, detail)
        if "totp_secret" in found:
            found.pop("second_factor_fault", None)
        return found

    def _hash_of(self, record: Mapping[str, Any]) -> Any:
        for name in ("passwordHash", "password_hash"):
            if record.get(name) is not None:
                return record[name]
        return (self._hashes or {}).get(str(record.get("user_id")))


def _read_hashes(records: Iterator[Any]) -> Iterator[tuple[str, str]]:
    for record in records:
        if not isinstance(record, dict):
            continue
        found = record.get("passwordHash")
        id_ = record.get("alt_id")
        if id_ is None and isinstance(record.get("_id"), dict):
            id_ = record["_id"].get("$oid")
        if isinstance(found, str) and isinstance(id_, str):
            yield f"{_PREFIX}{id_}", found


def _identifier(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Newer files have the e-mail address in a list of identifiers."""
    identifiers = record.get("identifiers")
    for found in identifiers if isinstance(identifiers, list) else []:
        if isinstance(found, dict) and found.get("type") == "email":
            return found
    return {}
