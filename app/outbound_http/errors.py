from typing import Literal

Reason = Literal[
    "invalid_url",
    "not_encrypted",
    "name_not_found",
    "address_not_allowed",
    "connect",
    "tls",
    "timeout",
    "protocol",
    "too_large",
    "encoded",
]


class OutboundError(Exception):
    """A request was not sent, or got no response. The reason quotes nothing that the other server
    sent."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
