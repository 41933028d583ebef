"""Why a request to the service failed, in words that may be logged."""

import os
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPException
from typing import Any


class HttpError(Exception):
    """`cause` is for the log. It never quotes what was sent or received."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class ReadTimeoutError(HttpError):
    """The connection was silent for too long, or the answer took too long."""


class ClosedError(HttpError):
    """The client was closed before or during the request."""


def cause_of(error: BaseException) -> str:
    """What went wrong, without any text that came over the network."""
    for kind, words in _CAUSES:
        if isinstance(error, kind):
            return words(error)
    return f"{type(error).__name__}{_place_of(error)}"


# The first that fits; several are an OSError.
_CAUSES: list[tuple[type[Exception], Callable[[Any], str]]] = [
    (HttpError, lambda error: error.cause),
    (ssl.SSLCertVerificationError, lambda error: f"certificate: {error.verify_message}"),
    (ssl.SSLError, lambda error: f"TLS: {_words(getattr(error, 'reason', None) or 'error')}"),
    (socket.gaierror, lambda _: "the name of its host is unknown"),
    (TimeoutError, lambda _: "no connection in time"),
    (HTTPException, lambda error: f"not HTTP: {type(error).__name__}"),
    (OSError, lambda error: os.strerror(error.errno) if error.errno else type(error).__name__),
]


def _words(constant: str) -> str:
    """The text of a constant of OpenSSL, such as WRONG_VERSION_NUMBER."""
    return constant.lower().replace("_", " ")


def _place_of(error: BaseException) -> str:
    """Where an unexpected error began. The log does not show its text, which may contain
    anything."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f" in {os.path.basename(code.co_filename)}, line {traceback.tb_lineno}"  # noqa: PTH119 - no pathlib here
