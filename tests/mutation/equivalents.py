"""equivalent.toml: the changes that are known to change nothing."""

import tomllib
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("equivalent.toml")


class Key(NamedTuple):
    module: str
    function: str
    change: str


def read() -> dict[Key, str]:
    """The reason of each. Raises ValueError if one has none."""
    entries = tomllib.loads(_FILE.read_text("utf-8")).get("change", [])
    reasons = {
        Key(entry["module"], entry["function"], entry["change"]): str(entry.get("reason", ""))
        for entry in entries
    }
    if unexplained := [key for key, reason in reasons.items() if not reason.strip()]:
        raise ValueError(f"equivalent.toml gives no reason for {unexplained}")
    return reasons
