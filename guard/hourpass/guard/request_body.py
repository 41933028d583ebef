"""Reads the whole body of an ASGI request, and gives it to the app again.

Up to MEMORY_BYTES are kept in memory, more in a file that has no name.
"""

from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import IO

from hourpass.errors import ContentTooLargeError, InvalidRequestError
from hourpass.event_loops import run_blocking, wait_at_most
from hourpass.guard.asgi import Message, Receive
from hourpass.guard.body_formats import Content
from hourpass.guard.name_readers import NameReader, RequestHead

MEMORY_BYTES = 2**20
PIECE_BYTES = 2**18  # of a body in a file, when the app reads it
MAX_PAUSE_SECONDS = 60.0  # between two parts of a body


class RequestBody:
    """`receive` is the app's after read()."""

    def __init__(self, receive: Receive) -> None:
        self.content: Content = b""
        self._receive = receive
        self._replayed = 0
        self._is_replayed = False

    async def read(self, limit: int) -> None:
        """Raises InvalidRequestError and ContentTooLargeError."""
        pieces: list[bytes] = []
        in_memory = in_file = 0
        file: IO[bytes] | None = None
        try:
            is_complete = False
            while not is_complete:
                message = await self._next()
                piece = message.get("body", b"")
                is_complete = not message.get("more_body", False)
                in_memory += len(piece)
                if in_memory + in_file > limit:
                    raise ContentTooLargeError
                pieces.append(piece)
                if in_memory > MEMORY_BYTES or (file and is_complete):
                    file = file or TemporaryFile()  # noqa: SIM115 - closed below
                    await run_blocking(file.write, b"".join(pieces))
                    in_file += in_memory
                    pieces, in_memory = [], 0
            if file:
                await run_blocking(file.flush)
                # The mapping keeps the file. Its memory belongs to the system's cache.
                self.content = mmap(file.fileno(), 0, access=ACCESS_READ)
            else:
                self.content = b"".join(pieces)
        finally:
            if file:
                file.close()

    async def receive(self) -> Message:
        if self._is_replayed:
            return await self._receive()
        piece = self.content
        if not isinstance(piece, bytes):
            piece = piece[self._replayed : self._replayed + PIECE_BYTES]
        self._replayed += len(piece)
        self._is_replayed = self._replayed == len(self.content)
        return {"type": "http.request", "body": piece, "more_body": not self._is_replayed}

    async def _next(self) -> Message:
        try:
            message = await wait_at_most(MAX_PAUSE_SECONDS, self._receive())
        except TimeoutError:
            raise InvalidRequestError("The body arrived too slowly") from None
        if message["type"] != "http.request":
            raise InvalidRequestError("The body is incomplete")
        return message


async def read_names(reader: NameReader, head: RequestHead, content: Content) -> list[str]:
    """The names that the reader finds, in a thread if the body is large.

    Raises InvalidRequestError.
    """
    if isinstance(content, bytes):
        return reader.names(head, content)
    return await run_blocking(reader.names, head, content)
