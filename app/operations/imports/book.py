"""Reads the table `users` of the book's API, which encrypts passwords with Fernet.

The book appends one salt to all passwords. Key and salt are in its config.yml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from app.operations.imports.columns import TableReader
from app.operations.imports.errors import ImportFileError, LeftOutError, Reason
from app.operations.imports.records import Options
from app.operations.imports.values import read_parameters, text


class BookReader(TableReader):
    batch: ClassVar = 100  # since hashing their passwords takes seconds
    columns: ClassVar = {
        "username": "username",
        "email": "email",
        "enabled": "is_enabled",
        "created_datetime": "created_at",
    }

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        if options.secrets is None:
            raise ImportFileError("Name the book's config.yml with --secrets.")
        parameters = read_parameters(options.secrets, ("key", "salt"))
        self._salt = parameters["salt"]
        try:
            self._fernet = Fernet(parameters["key"])
        except ValueError:
            raise ImportFileError(f"The key in {options.secrets} is not a Fernet key.") from None

    def accepted_options(self) -> frozenset[str]:
        return frozenset({"secrets"})

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = super().read_user(record)
        if (encrypted := text(record.get("password"))) is not None:
            try:
                found["password"] = self._decrypt(encrypted)
            except LeftOutError as error:
                found["password_fault"] = error
        return found

    def _decrypt(self, encrypted: str) -> SecretStr:
        try:
            password = self._fernet.decrypt(encrypted.encode()).decode()
        except (InvalidToken, UnicodeError):
            detail = "It was encrypted with another key"
            raise LeftOutError(Reason.PASSWORD, detail) from None
        if not password.endswith(self._salt):
            raise LeftOutError(Reason.PASSWORD, "It was encrypted with another salt")
        return SecretStr(password.removesuffix(self._salt))
