"""Reverse proxies in front of Hourpass itself, each with the fewest lines that people write."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import free_port
from tests.support.proxies import SEARCH_PATH, START_TIMEOUT_SECONDS

_CADDY = """{
    admin off
    auto_https off
}
http://:%(port)d {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:%(service)d
}
"""
_HAPROXY = """defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse always
listen hourpass
    bind 127.0.0.1:%(port)d
    option forwardfor
    server one 127.0.0.1:%(service)d
"""
_NGINX = """pid nginx.pid;
error_log stderr;
daemon off;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream hourpass {
        server 127.0.0.1:%(service)d;
        keepalive 16;
    }
    server {
        listen 127.0.0.1:%(port)d;
        location / {
            proxy_pass http://hourpass;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }
    }
}
"""
PLAIN_PROXIES = {
    "caddy": ("Caddyfile", _CADDY, "caddy run --config Caddyfile --adapter caddyfile"),
    "haproxy": ("haproxy.cfg", _HAPROXY, "haproxy -db -f haproxy.cfg"),
    "nginx": ("nginx.conf", _NGINX, "nginx -p . -c nginx.conf -e stderr"),
}


@contextmanager
def plain_proxy(kind: str, directory: Path, service: int) -> Iterator[str]:
    """Its base URL."""
    name, configuration, command = PLAIN_PROXIES[kind]
    port = free_port()
    (directory / name).write_text(configuration % {"port": port, "service": service})
    program, *arguments = command.split()
    found = shutil.which(program, path=SEARCH_PATH)
    assert found, f"{program} is not installed; see CONTRIBUTING.md"
    output = directory / f"{kind}.output"
    with output.open("wb") as writer:
        process = subprocess.Popen(
            [found, *arguments],
            cwd=directory,
            stdout=writer,
            stderr=writer,
            env={"HOME": str(directory)},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, url, output)
        yield url
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, output.read_text()[-2000:]
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(output.read_text()[-2000:])
