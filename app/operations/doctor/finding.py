"""What a check of `hourpass doctor` finds."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """`subject` is what was looked at, in two or three words. `text` says what is right, or what to
    do. A warning does not keep the service from working."""

    subject: str
    state: Literal["ok", "warning", "error"]
    text: str
