"""The result of an import, or of a dry run. Contains usernames, but no hash and no secret."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from app.operations.imports.errors import Reason

# The number of roles without a scope. A file could have a new role in each record.
_MAX_ROLES = 1_000


class LeftOut(NamedTuple):
    """`number` is the position of the record in the file."""

    number: int
    name: str
    reason: Reason
    detail: str


@dataclass(slots=True)
class HashKind:
    users: int = 0
    seconds: float = 0.0  # to verify all of them once
    slowest: float = 0.0

    def add(self, seconds: float) -> None:
        self.users += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


@dataclass(slots=True)
class Report:
    imported: int = 0
    existing: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)
    without_password: int = 0
    dropped_passwords: int = 0
    second_factors: int = 0
    dropped_second_factors: int = 0
    administrators: int = 0
    disabled: int = 0
    to_hash: int = 0  # passwords that were not hashed
    hashes: dict[str, HashKind] = field(default_factory=dict)  # by algorithm
    unmapped_roles: Counter[str] = field(default_factory=Counter)

    def count_roles(self, roles: set[str]) -> None:
        for role in roles:
            if role in self.unmapped_roles or len(self.unmapped_roles) < _MAX_ROLES:
                self.unmapped_roles[role] += 1
