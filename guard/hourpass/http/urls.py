"""URLs of the service and of a proxy, checked when they are given."""

import base64
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_SERVICE_URL = (
    "The URL of the Hourpass service is http(s)://host[:port][/path], without user and password"
)
_PROXY_URL = "proxy is http://[user:password@]host:port; for other kinds, use transport="


@dataclass(frozen=True, slots=True)
class ServiceUrl:
    scheme: str
    host: str
    port: int
    path: str = ""  # before the paths of the service, without a slash at the end

    @classmethod
    def parse(cls, url: str) -> "ServiceUrl":
        """Raises ValueError, which does not quote the URL: it may contain a password."""
        parts = urlsplit(_checked(url, _SERVICE_URL))
        host, port = _host_and_port(url, _SERVICE_URL)
        if parts.scheme not in _PORTS or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(_SERVICE_URL)
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], path)

    @property
    def netloc(self) -> str:
        """The value of the header `Host`, with the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def parse(cls, url: str) -> "ProxyUrl":
        """Raises ValueError, which does not quote the URL."""
        parts = urlsplit(_checked(url, _PROXY_URL))
        host, port = _host_and_port(url, _PROXY_URL)
        if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError(_PROXY_URL)
        headers = {}
        if parts.username is not None:
            name_and_password = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(name_and_password.encode()).decode()
            headers["Proxy-Authorization"] = f"Basic {encoded}"
        return cls(host, port or _PORTS["http"], headers)


def is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False


def _checked(url: str, message: str) -> str:
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(message)
    try:
        urlsplit(url)
    except ValueError:
        raise ValueError(message) from None
    return url


def _host_and_port(url: str, message: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    try:
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
        port = parts.port
    except ValueError:
        raise ValueError(message) from None
    if not host or port == 0:
        raise ValueError(message)
    return host, port
