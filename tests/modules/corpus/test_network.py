"""Addresses that may be connected to, and tricks to be connected to others."""

import asyncio
import ipaddress
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modules.corpus.network import (
    BlockedAddress,
    GuardedResolver,
    GuardedSocket,
    NetworkConfig,
    check_address,
    check_url,
    is_public,
    literal,
    open_session,
)

NOTHING_PRIVATE = NetworkConfig(ports=())
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "192.0.1.1", "172.32.0.1", "223.255.255.255"]
PUBLIC += ["2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
PRIVATE = (
    "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 "
    "172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 "
    "203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 "
    ":: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 "
    "64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::1 2001:2::1 2001:10::1 "
    "2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 "
    "fd12:3456::1 fe80::1 fec0::1 ff02::1"
).split()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_special_addresses(address):
    assert not is_public(ipaddress.ip_address(address))


def test_the_rule_is_not_looser_than_the_library_where_that_is_right():
    """Compare with `is_global` on the borders of all our networks."""
    from modules.corpus.network import SPECIAL_4

    for network in SPECIAL_4:
        for value in (int(network.network_address) - 1, int(network.broadcast_address) + 1):
            if 0 <= value < 2**32:
                address = ipaddress.IPv4Address(value)
                assert is_public(address) <= (address.is_global or address.is_multicast)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("127.0.0.1.", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%25lo", "fe80::1"),
        ("example.com", None),
        ("1.2.3.4.example", None),
    ],
)
def test_literal_addresses(host, address):
    assert literal(host) == address


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://h.example/", "http:///x", "http://h.example:25/", "gopher://h/"]
    + ["http://127.1/", "http://[::1]:80/", "http://2130706433/", "http://h.example:99999/"],
)
def test_addresses_refused_by_their_text(url):
    with pytest.raises(BlockedAddress):
        check_url(url, NetworkConfig())


def test_networks_can_be_allowed_by_name_only():
    config = NetworkConfig(allow_networks=("127.0.0.1/32",))
    check_address("127.0.0.1", config)
    for other in ("127.0.0.2", "::1", "10.0.0.1", "no address"):
        with pytest.raises(BlockedAddress):
            check_address(other, config)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::1"]])
def test_a_name_with_one_private_address_is_refused(addresses):
    async def resolve(host):
        return addresses

    with pytest.raises(BlockedAddress):
        asyncio.run(GuardedResolver(NOTHING_PRIVATE, resolve).resolve("h.example"))


def test_the_socket_itself_refuses(zoo):
    with GuardedSocket() as opened, pytest.raises(BlockedAddress):
        opened.connect(("127.0.0.1", zoo.ports["healthy"]))
    with GuardedSocket() as opened, pytest.raises(BlockedAddress):
        opened.connect_ex(("127.0.0.1", zoo.ports["healthy"]))


def test_a_session_reaches_no_loopback_server_whatever_it_is_asked(zoo):
    """The bare session, without the checks of an address's text in front of it."""
    before = len(zoo.hits())

    async def resolve(host):
        return ["127.0.0.1"]

    async def ask(url):
        async with open_session(NOTHING_PRIVATE, resolve) as session:
            with pytest.raises(Exception) as caught:
                await session.get(url)
        return caught

    port = zoo.ports["healthy"]
    for host in ("127.0.0.1", "h.example", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1"):
        asyncio.run(ask(f"http://{host}:{port}/"))
    assert len(zoo.hits()) == before


def test_the_environments_proxy_is_not_used(zoo, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{zoo.ports['healthy']}")

    async def ask():
        async with open_session(NOTHING_PRIVATE) as session:
            assert session.trust_env is False

    asyncio.run(ask())


def test_500_tricks_reach_no_private_listener():
    """In a network of its own, where a listener counts what arrives at each address."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip (util-linux, iproute2)")
    command = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("no permission to make a network namespace here")
    script = Path(__file__).with_name("address_tricks.py")
    done = subprocess.run([*command, sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["tricks"] >= 500
    assert told["private"] == {}, "connections to private addresses"
    assert told["public"] > 100  # the redirects came from a server that could be reached
    assert told["unguarded"] > 50  # what a fifth of them reaches where everything is allowed
    assert told["control"] == 5  # the listeners do count: each private address, asked directly
    assert told["pages"] == 0
