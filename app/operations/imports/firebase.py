"""Reads what `firebase auth:export` writes as JSON."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.operations.imports import values
from app.operations.imports.errors import ImportFileError, LeftOutError, Reason
from app.operations.imports.json_files import read_records
from app.operations.imports.reader import Reader
from app.operations.imports.records import Options
from app.security.imported_hashes import firebase_scrypt

_MAX_MEM_COST = 30
_MAX_ROUNDS = 9999


class FirebaseReader(Reader):
    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        if options.secrets is None:
            raise ImportFileError(
                "Save the password hash parameters of Firebase's console in a file, and name it "
                "with --secrets."
            )
        names = ("base64_signer_key", "base64_salt_separator", "rounds", "mem_cost")
        found = values.read_parameters(options.secrets, names)
        try:
            self._signer_key = values.base64_bytes(found["base64_signer_key"])
            self._separator = values.base64_bytes(found["base64_salt_separator"])
            self._rounds, self._mem_cost = int(found["rounds"]), int(found["mem_cost"])
        except ValueError:
            detail = "the password hash parameters of Firebase's console"
            raise ImportFileError(f"{options.secrets} does not have {detail}.") from None
        is_bounded = 1 <= self._rounds <= _MAX_ROUNDS and 1 <= self._mem_cost <= _MAX_MEM_COST
        if not is_bounded:
            raise ImportFileError(f"{options.secrets}: rounds or mem_cost is out of bounds.")

    def accepted_options(self) -> frozenset[str]:
        return frozenset({"secrets"})

    def records(self) -> Iterator[Any]:
        return read_records(self._path, "users")

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = values.read_fields(
            {
                "email": record.get("email"),
                "email_verified": record.get("emailVerified"),
                "created_at": record.get("createdAt"),
            }
        )
        found["is_enabled"] = not values.flag(record.get("disabled") or False)
        found["roles"] = tuple(_roles(record.get("customAttributes")))
        if record.get("passwordHash"):
            try:
                found["password_hash"] = self._hash_of(record)
            except LeftOutError as error:
                found["password_fault"] = error
        if record.get("mfaInfo"):
            detail = "Firebase does not export its secret"
            found["second_factor_fault"] = LeftOutError(Reason.SECOND_FACTOR, detail)
        return found

    def _hash_of(self, record: Mapping[str, Any]) -> str:
        try:
            value = values.base64_bytes(record.get("passwordHash"))
            salt = values.base64_bytes(record.get("salt"))
        except ValueError:
            value = salt = b""
        parameters = (self._signer_key, self._separator, self._rounds, self._mem_cost)
        storable = firebase_scrypt(value, salt, *parameters)
        if storable is None:
            raise LeftOutError(Reason.HASH, "It is not one of Firebase's scrypt")
        return storable


def _roles(attributes: Any) -> Iterator[str]:
    """Custom claims: `admin` if it is true, role:NAME for a text, and for each text of a list."""
    if not attributes:
        return
    for name, value in values.members(attributes).items():
        if value is True:
            yield name
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield f"{name}:{text}"
