"""An Issuer on a real socket, with TLS if a test wants it, and an HTTP proxy in front of it."""

import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hourpass.testing import Issuer, Request, RequestUrl


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it delays an answer that is written piece by piece
    issuer: Issuer

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        """Every password is right."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"token-exchange" in body:
            self._answer(body)
            return
        answer = {"access_token": self.issuer.token(), "expires_in": 3600}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, body: bytes | None) -> None:
        url = urlsplit(self.path)
        asked = RequestUrl(url.path, dict(parse_qsl(url.query)))
        try:
            answer = self.issuer.answer(Request(asked, dict(self.headers), self.command, body))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in answer.stream:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the issuer's outage, or a guard that is gone
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> Iterator[str]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None: ...  # as of a guard that trusts another CA

        def finish_request(self, request: Any, address: object) -> None:
            if tls is None:
                super().finish_request(request, address)
                return
            with tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, address)

    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def serving_issuer(issuer: Issuer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Yields its URL."""
    handler = type("Handler", (_Handler,), {"issuer": issuer})
    try:
        with _serving(handler, tls) as url:
            yield url
    finally:
        issuer.close()


@contextmanager
def http_proxy(asked: list[tuple[str, str | None]]) -> Iterator[str]:
    """It notes the first line of each request and the credentials. It opens tunnels, and answers
    all else itself."""

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self._note()
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                self.send_response(200)
                self.end_headers()
                here = self.connection
                while ready := select.select([here, there], [], [], 10)[0]:
                    for source in ready:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        (there if source is here else here).sendall(data)

        def do_GET(self) -> None:
            self._note()
            self.send_error(502)

        def do_POST(self) -> None:
            self.do_GET()

        def _note(self) -> None:
            asked.append((self.requestline, self.headers.get("Proxy-Authorization")))

        def log_message(self, *_: object) -> None: ...

    with _serving(Proxy, None) as url:
        yield url


@contextmanager
def dribbling_server(answer: bytes, pause: float) -> Iterator[str]:
    """It sends the answer byte by byte, with a pause after each."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            for byte in answer:
                if is_over.wait(pause):
                    return
                self.wfile.write(bytes([byte]))

    with _serving(Handler, None) as url:
        yield url
        is_over.set()
