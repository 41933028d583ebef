"""Reads requests, with a bound for everything that arrives besides the bodies that the app reads.

uvicorn's parser takes an offer to upgrade as the end of HTTP, trailer fields as header fields, and
has no bounds. What is refused here, the app never sees; what to do then is up to protocol.py.
"""

from abc import abstractmethod

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import HeadersTooLargeError, MalformedRequestError, Refusal, UriTooLongError
from app.exchange import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_TARGET_BYTES

_NOTED_HEADERS = frozenset((b"content-length", b"transfer-encoding", b"expect"))


class RequestParser(HttpToolsProtocol):
    # Of the message that is being received:
    _in_head = False
    _in_body = False
    _has_begun = False  # within the slice at hand
    _is_replaying = False  # its head, to a parser that sees no offer to upgrade
    _head_bytes = 0
    _body_bytes = 0
    _framing_bytes = 0  # chunk sizes and extensions, trailers
    _announced_bytes = 0  # Content-Length
    _keeps_alive_if_complete = False

    _is_last = False  # nothing that still arrives will be answered
    _has_unread = False

    @abstractmethod
    def _refuse(self, refusal: type[Refusal]) -> None:
        """Answer what is being received with an error, once the requests before it are answered.
        If it has an answer already, it gets no other one."""

    @abstractmethod
    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """The answer to this request is the last one; if it was sent already, close."""

    @abstractmethod
    def _drop(self, number: int) -> None:
        """So many bytes came after the last request."""

    def _parse(self, data: bytes) -> None:
        if self._is_last:
            self._drop(len(data))
            return
        self._has_begun = False
        body_bytes = self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            if rest := data[upgrade.args[0] :]:
                self._parse(rest)
            return
        except httptools.HttpParserError:
            if not self._is_last:
                self._refuse(MalformedRequestError)
            return
        if not self._is_last:
            self._check_bounds(0 if self._has_begun else len(data), self._body_bytes - body_bytes)

    def _check_bounds(self, received: int, of_the_body: int) -> None:
        """The parser speaks of a header, a chunk or a trailer once it is whole, which it may never
        be. So all bytes count, but for those of the slice in which the message began."""
        if self._in_head:
            self._head_bytes += received
            if len(self.url) > MAX_TARGET_BYTES:
                self._refuse(UriTooLongError)
            elif self._head_bytes > MAX_TARGET_BYTES + MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError)
        elif self._in_body:
            self._framing_bytes += received - of_the_body if received else 0
            if self._body_bytes > MAX_BODY_BYTES:
                self._end_with(self.cycle)  # exchange.py refuses it
            elif self._framing_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError)

    def _ignore_upgrade(self) -> None:
        """No other protocol is spoken here, so that an offer of one is to be ignored (RFC 9110,
        7.8). The parser takes it as the end of HTTP; another one takes over after the head."""
        if self.scope["method"] == "CONNECT":
            self._refuse(MalformedRequestError)
            return
        framing = [
            b"%s: %s\r\n" % header
            for header in self.cycle.scope["headers"]
            if header[0] in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._is_replaying = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
        except httptools.HttpParserError:
            self._refuse(MalformedRequestError)
        finally:
            self._is_replaying = False

    def on_message_begin(self) -> None:
        if self._is_replaying:
            return
        if self._is_last:
            self._has_unread = True
            raise ValueError  # stops the parser
        super().on_message_begin()
        self._head_bytes = self._announced_bytes = 0
        self._in_head = self._has_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailer fields, which come here as well, are dropped (RFC 9110, 6.5.1)."""
        if not self._in_head:
            return
        name = name.lower()
        if name in _NOTED_HEADERS:
            self._note(name, value)
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        """The parser has refused lengths that are ambiguous. ValueError refuses a message too."""
        is_old = self.parser.get_http_version() == "1.0"
        if name == b"content-length":
            self._announced_bytes = int(value)
        elif name == b"transfer-encoding":
            # RFC 9112, 6.1: HTTP/1.0 has none. And nothing here could decode another one.
            if is_old or value.strip().lower() != b"chunked":
                raise ValueError
        elif value.lower() == b"100-continue" and not is_old:  # RFC 9110, 10.1.1
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            return
        self._in_head = False
        super().on_headers_complete()
        self._in_body = True
        self._body_bytes = self._framing_bytes = 0
        self._keeps_alive_if_complete = False
        if self._announced_bytes > MAX_BODY_BYTES:
            self._end_with(self.cycle)
        elif self.expect_100_continue and self.cycle.keep_alive:
            # A client that is answered instead of asked for the body may send it, or may not.
            self.cycle.keep_alive = False
            self._keeps_alive_if_complete = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self.cycle.response_complete:
            self.cycle.body += body
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        parser = self.parser
        if parser.should_upgrade():
            return
        self._in_body = False
        cycle = self.cycle
        if self._keeps_alive_if_complete and not cycle.response_started:
            cycle.keep_alive = True
        # A trailer may say close too; the parser would then skip all that follows.
        if not cycle.keep_alive or not parser.should_keep_alive():
            self._end_with(cycle)
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
