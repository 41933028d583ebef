"""A URL of an outgoing request has one meaning, and leads to a public address or an allowed one."""

from collections.abc import Sequence

import pytest

from app.configuration.types import Network
from app.outbound_http.addresses import is_allowed, is_public, parse_address
from app.outbound_http.client import OutboundHttp
from app.outbound_http.urls import MAX_LENGTH, Url, parse_url
from tests.support.settings import make_settings


def networks(text: str) -> Sequence[Network]:
    return make_settings("sqlite:///x.db", outbound_networks=text).outbound_networks


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Example.org", Url("https", "example.org", 443, "/")),
        ("HTTPS://example.org:8443/a/b?c=d", Url("https", "example.org", 8443, "/a/b?c=d")),
        ("https://example.org?c=d", Url("https", "example.org", 443, "/?c=d")),
        (
            "https://xn--bcher-kva.example/%C3%BC",
            Url("https", "xn--bcher-kva.example", 443, "/%C3%BC"),
        ),
        ("https://192.0.2.7/", Url("https", "192.0.2.7", 443, "/")),
        ("https://[2001:DB8:0::1]:1/", Url("https", "2001:db8::1", 1, "/")),
        ("http://my_host", Url("http", "my_host", 80, "/")),
    ],
)
def test_urls_that_are_read(text: str, url: Url) -> None:
    assert parse_url(text) == url


def test_the_host_header_names_other_ports_and_has_brackets() -> None:
    hosts = [
        parse_url(f"https://{host}").host_header
        for host in ("a.example:443", "a.example:444", "[::1]", "[::1]:80")
    ]
    assert hosts == ["a.example", "a.example:444", "[::1]", "[::1]:80"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "https:/example.org",
        "https://",
        "https:///path",
        "https://user@example.org",
        "https://user:secret@example.org",
        "https://example.org@127.0.0.1",
        "https://example.org#fragment",
        "https://example.org\\@127.0.0.1",
        "https://exam ple.org",
        "https://example.org/\r\nHost: other",
        "https://example.org/\t",
        " https://example.org",
        "https://example.org/\N{LATIN SMALL LETTER U WITH DIAERESIS}",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
        "https://\N{FULLWIDTH DIGIT ONE}27.0.0.1",
        "https://127\N{IDEOGRAPHIC FULL STOP}0.0.1",
        "https://example.org.",
        "https://example..org",
        "https://-a.example",
        "https://a%2eexample",
        f"https://{'a' * 64}.example",
        f"https://{'a.' * 127}a",
        # ports
        "https://example.org:",
        "https://example.org:0",
        "https://example.org:65536",
        "https://example.org:+443",
        "https://example.org:0443",
        "https://example.org:443:80",
        # IPv4 addresses in other notations
        "https://2130706433",
        "https://0x7f000001",
        "https://0x7f.1",
        "https://017700000001",
        "https://0177.0.0.1",
        "https://127.1",
        "https://127.0.0.1.",
        "https://127.0.0.0x1",
        "https://127.0.0.256",
        # IPv6 addresses
        "https://::1/",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://[v1.fe80]",
        "https://[127.0.0.1]",
        f"https://example.org/{'a' * MAX_LENGTH}",
    ],
)
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as refused:
        parse_url(text)
    assert "secret" not in str(refused.value)


PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata of Alibaba
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # of Azure
    "169.254.169.254",  # of most clouds
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of AWS
    "fe80::1",
    "fe80::1%1",
    "2606:4700:4700::1111%1",
    "fec0::1",
    "ff02::1",
]


def test_which_addresses_are_public(subtests: pytest.Subtests) -> None:
    for text in PUBLIC + NOT_PUBLIC:
        with subtests.test(text):
            address = parse_address(text)
            assert address
            assert is_public(address) == (text in PUBLIC)


def test_other_addresses_are_allowed_by_name_only() -> None:
    allowed = networks("10.1.0.0/16,fd00::/8")
    addresses = ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "10.2.0.1", "127.0.0.1", "8.8.8.8"]
    found = [is_allowed(address, allowed) for text in addresses if (address := parse_address(text))]
    assert found == [True, True, True, False, False, True]
    assert parse_address("localhost") is None


def test_a_url_with_an_address_that_no_request_may_reach_is_refused() -> None:
    public, some = OutboundHttp(()), OutboundHttp(networks("10.0.0.0/8"))
    for url in ("https://8.8.8.8", "https://[2606:4700::1111]/", "https://example.org"):
        public.check_url(url)
        some.check_url(url)
    for url in ("https://10.0.0.1", "http://10.0.0.1", "https://[::ffff:10.0.0.1]"):
        some.check_url(url)
    for url in (
        "https://10.0.0.1",
        "https://127.0.0.1",
        "https://[::1]",
        "https://169.254.169.254",
    ):
        with pytest.raises(ValueError, match="public IP address"):
            public.check_url(url)
    with pytest.raises(ValueError, match="public IP address"):
        some.check_url("https://192.168.0.1")


def test_http_needs_an_allowed_network() -> None:
    for client in (OutboundHttp(()), OutboundHttp(networks("10.0.0.0/8"))):
        with pytest.raises(ValueError, match="https://"):
            client.check_url("http://8.8.8.8")
    with pytest.raises(ValueError, match="https://"):
        OutboundHttp(()).check_url("http://example.org")
    OutboundHttp(networks("10.0.0.0/8")).check_url("http://example.org")
    OutboundHttp(()).check_url("https://example.org")
