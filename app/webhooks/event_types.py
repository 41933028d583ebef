"""The types of messages. Commands import them without the database."""

from typing import Literal, get_args

TEST = "webhook.test"

EventType = Literal[
    "user.created",
    "user.disabled",
    "user.enabled",
    "user.deleted",
    "user.password_changed",
    "user.login_from_new_address",
    "user.second_factor_added",
    "user.second_factor_removed",
    "signing_key.rotated",
    "signing_key.revoked",
]
TYPES: tuple[EventType, ...] = get_args(EventType)
