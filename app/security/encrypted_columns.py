"""Which columns have encrypted secrets. Their models say so, for the rotation of SECRET_KEY."""

from typing import Any, NamedTuple

from sqlalchemy import Column, MetaData

_INFO = "encrypted_as"


class EncryptedColumn(NamedTuple):
    """`key` is the primary key of its table. If `is_replaceable`, the service does without a secret
    that it cannot decrypt."""

    content: str
    column: Column[Any]
    key: Column[Any]
    is_replaceable: bool


def encrypted_as(content: str, *, is_replaceable: bool = False) -> dict[str, Any]:
    """The `info` of a column with secrets that the Encryptor of that content encrypts."""
    return {_INFO: (content, is_replaceable)}


def find_encrypted_columns(metadata: MetaData) -> list[EncryptedColumn]:
    """All of them, if the metadata is that of app/tables.py."""
    found = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            if _INFO in column.info:
                content, is_replaceable = column.info[_INFO]
                (key,) = table.primary_key.columns
                found.append(EncryptedColumn(content, column, key, is_replaceable))
    return sorted(found, key=lambda each: each.content)
