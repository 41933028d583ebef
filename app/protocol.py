"""Bounds that only the HTTP parser can keep: a path or headers without end never reach the app.

`hourpass serve` uses it. Under a plain `uvicorn app.main:app` the same bounds hold in exchange.py,
but only once all of the headers have been read.
"""

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.error_responses import render
from app.errors import HeadersTooLargeError, MalformedRequestError, Refusal, UriTooLongError
from app.exchange import MAX_HEADER_BYTES, MAX_TARGET_BYTES


class BoundedHttpProtocol(HttpToolsProtocol):
    _refusal: type[Refusal] = MalformedRequestError
    _header_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._refuse(UriTooLongError)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLargeError)

    def _refuse(self, refusal: type[Refusal]) -> None:
        self._refusal = refusal
        raise HttpParserError(refusal.message)  # stops the parser; send_400_response comes next

    def send_400_response(self, msg: str) -> None:
        response = render(self._refusal())
        lines = [STATUS_LINE[response.status_code]]
        lines += [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        lines += [b"connection: close\r\n\r\n", bytes(response.body)]
        self.transport.write(b"".join(lines))
        self.transport.close()
