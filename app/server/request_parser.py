"""Parses requests and limits the size of their parts.

uvicorn's parser treats an offer to upgrade as the end of HTTP, treats trailer fields as header
fields, and has no limits. The app never sees a request that is refused here; protocol.py answers
it.
"""

from abc import abstractmethod

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import ApiError, HeadersTooLargeError, MalformedRequestError, UriTooLongError
from app.http.middleware import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_TARGET_BYTES

_FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding", b"expect"))


class RequestParser(HttpToolsProtocol):
    # State of the message being received:
    _in_head = False
    _in_body = False
    _has_begun = False  # in the current slice
    _is_replaying = False  # the head is being replayed without its offer to upgrade
    _head_bytes = 0
    _body_bytes = 0
    _framing_bytes = 0  # chunk sizes and extensions, trailers
    _announced_bytes = 0  # Content-Length
    _number_of_hosts = 0
    _keeps_alive_if_complete = False

    _is_last = False  # later messages get no answer
    _is_stopping = False  # the next answer is the last one
    _has_unread = False

    @abstractmethod
    def _refuse(self, error: type[ApiError]) -> None:
        """Answer the message being received with an error, after the answers to earlier requests.
        A message that has been answered gets no second answer."""

    @abstractmethod
    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Make the answer to this request the last one; close if it has been sent."""

    @abstractmethod
    def _drop(self, number: int) -> None:
        """Count bytes that arrived after the last request."""

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
            self._check_limits(0 if self._has_begun else len(data), self._body_bytes - body_bytes)

    def _check_limits(self, received: int, in_body: int) -> None:
        """The parser reports a header, chunk or trailer only when it is complete. So all received
        bytes count, except those of the slice in which the message began."""
        if self._in_head:
            self._head_bytes += received
            if len(self.url) > MAX_TARGET_BYTES:
                self._refuse(UriTooLongError)
            elif self._head_bytes > MAX_TARGET_BYTES + MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError)
        elif self._in_body:
            self._framing_bytes += received - in_body if received else 0
            if self._body_bytes > MAX_BODY_BYTES:
                self._end_with(self.cycle)  # http/middleware.py refuses it
            elif self._framing_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError)

    def _ignore_upgrade(self) -> None:
        """Ignore an offer of another protocol (RFC 9110, 7.8). The parser treats it as the end of
        HTTP, so a new parser continues after the head."""
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
        self._head_bytes = self._announced_bytes = self._number_of_hosts = 0
        self._in_head = self._has_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Drops trailer fields, which the parser reports here too (RFC 9110, 6.5.1)."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"host":
            self._number_of_hosts += 1
        elif name in _FRAMING_HEADERS:
            self._read_framing(name, value)
        # White space around the value is not part of it (RFC 9110, 5.5). httptools removes it in
        # front only.
        self.headers.append((name, value.strip(b" \t")))

    def _read_framing(self, name: bytes, value: bytes) -> None:
        """The parser has already refused ambiguous lengths. ValueError makes it refuse the
        message."""
        is_http_1_0 = self.parser.get_http_version() == "1.0"
        if name == b"content-length":
            self._announced_bytes = int(value)
        elif name == b"transfer-encoding":
            # RFC 9112, 6.1: HTTP/1.0 has no transfer codings. Only chunked is implemented here.
            if is_http_1_0 or value.strip().lower() != b"chunked":
                raise ValueError
        elif value.strip().lower() == b"100-continue" and not is_http_1_0:  # RFC 9110, 10.1.1
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            return
        if self._number_of_hosts != 1:
            is_http_1_0 = self.parser.get_http_version() == "1.0"
            if self._number_of_hosts or not is_http_1_0:  # RFC 9112, 3.2
                raise ValueError
        self._in_head = False
        super().on_headers_complete()
        self._in_body = True
        self._body_bytes = self._framing_bytes = 0
        self._keeps_alive_if_complete = False
        if self._is_stopping:
            self.cycle.keep_alive = False
        if self._announced_bytes > MAX_BODY_BYTES:
            self._end_with(self.cycle)
        elif self.expect_100_continue and self.cycle.keep_alive:
            # A client that gets the final response instead of 100 may or may not send the body.
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
        # The parser skips everything after a message with `Connection: close`, even in a trailer.
        if not cycle.keep_alive or not parser.should_keep_alive():
            self._end_with(cycle)
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
