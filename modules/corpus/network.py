"""Which addresses a fetch may connect to: the public internet's, checked where it connects.

A name is resolved once, every address it has is checked, and the socket that connects checks
again what it was given. The rule is written out, since `ipaddress.is_global` of Python 3.11 takes
some special addresses for public ones (64:ff9b::7f00:1, 2002:7f00:1::, 192.0.0.8, 224.0.0.1).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import count
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import BadHttpMessage

from modules.config import Config

Resolve = Callable[[str], Awaitable[list[str]]]
"""await resolve(host) -> its addresses as text; OSError if it has none"""

# the IANA IPv4 Special-Purpose Address Registry (RFC 6890) where not globally reachable, and
# multicast
SPECIAL_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
GLOBAL_6 = IPv6Network("2000::/3")  # all that IANA has allocated as global unicast
# the IANA IPv6 Special-Purpose Address Registry inside 2000::/3; tunnels carry any IPv4 address
SPECIAL_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
MAX_INTERIM = 10  # 1xx answers before the one that counts; honest servers send one or two
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: how an IPv6-only machine sees all of IPv4


class BlockedAddress(Exception):
    """An address that may not be connected to."""


class NetworkConfig(Config):
    """Which addresses may be connected to."""

    allow_networks: tuple[str, ...] = ()
    """Networks allowed although they are private, such as 127.0.0.1/32 for tests. Whatever a page
    links or redirects to is fetched from them, so name no network with anything secret in it."""
    ports: tuple[int, ...] = (80, 443, 8000, 8008, 8080, 8081, 8088, 8443, 8888)
    """Ports that may be connected to: where web servers are. A redirect could otherwise speak to
    a mail server or a database. Empty: any."""

    @property
    def allowed(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks that are allowed although they are private."""
        return tuple(ipaddress.ip_network(network) for network in self.allow_networks)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_4)
    inner = address.ipv4_mapped
    if inner is None and address in NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in GLOBAL_6 and not any(address in network for network in SPECIAL_6)


def check_address(text: str, config: NetworkConfig) -> None:
    """Let an address pass.

    Raises:
        BlockedAddress: it is not public, and not allowed by the config; or it is none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BlockedAddress(text) from None
    if not is_public(address) and not any(address in network for network in config.allowed):
        raise BlockedAddress(text)


def literal(host: str) -> str | None:
    """Return the address that a host's text stands for, or None if it is a name.

    Takes all spellings that the system's resolver takes: 127.1, 0x7f.1, 017700000001, 2130706433.
    """
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeError):
        return None


def check_url(url: str, config: NetworkConfig) -> None:
    """Let an address of a page pass as far as its text tells.

    Raises:
        BlockedAddress: another scheme or port, or the text of an address that is not public.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise BlockedAddress(url) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BlockedAddress(url)
    if config.ports and port not in config.ports:
        raise BlockedAddress(f"port {port}")
    if address := literal(parts.hostname):
        check_address(address, config)


async def system_resolve(host: str) -> list[str]:
    """Ask the system's resolver for a full name (no search domains)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.rstrip(".") + ".", None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class GuardedResolver(AbstractResolver):
    """Resolves names; a name with any address that is not public has none."""

    def __init__(self, config: NetworkConfig, resolve: Resolve) -> None:
        self._config, self._resolve = config, resolve

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return all addresses of a name, in numbers: no second look-up follows."""
        addresses = await self._resolve(host)
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            check_address(address, self._config)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held open."""


class GuardedSocket(socket.socket):
    """A socket that connects to allowed addresses only, whoever asks it to and by what way."""

    config = NetworkConfig()

    def connect(self, address: Any) -> None:
        """Connect, if the address may be connected to."""
        check_address(address[0], self.config)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        """Connect, if the address may be connected to."""
        check_address(address[0], self.config)
        return super().connect_ex(address)


def _open_socket(config: NetworkConfig, info: Any) -> socket.socket:
    """Make the socket for one address."""
    opened = GuardedSocket(info[0], info[1], info[2])
    opened.config = config
    return opened


def connector(config: NetworkConfig, resolve: Resolve) -> aiohttp.TCPConnector:
    """Return the only way that requests take to the network."""
    return aiohttp.TCPConnector(
        resolver=GuardedResolver(config, resolve),
        socket_factory=partial(_open_socket, config),
        limit=0,  # the crawl limits itself, by host and in all
        ttl_dns_cache=60,
        keepalive_timeout=15,
    )


class GuardedResponse(aiohttp.ClientResponse):
    """An answer that knows where it came from."""

    peer: str = ""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Wait for the header, through no more than some interim answers (1xx)."""
        protocol = connection.protocol
        read, room = protocol.read, count(MAX_INTERIM, -1)

        async def read_one() -> Any:
            if next(room) < 0:
                raise BadHttpMessage("too many interim answers")
            return await read()

        protocol.read = read_one  # aiohttp takes any number of them, and all of the processor
        try:
            return await super().start(connection)
        finally:
            del protocol.read


class GuardedRequest(aiohttp.ClientRequest):
    """A request that looks who is at the other end before it says anything."""

    network = NetworkConfig()

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Check the connection's peer, then send."""
        peer = conn.transport.get_extra_info("peername") if conn.transport else None
        if not peer:  # closed again already
            raise aiohttp.ServerDisconnectedError
        check_address(peer[0], self.network)
        response = cast(GuardedResponse, await super().send(conn))
        response.peer = str(peer[0])
        return response


def open_session(
    config: NetworkConfig, resolve: Resolve = system_resolve, **options: Any
) -> aiohttp.ClientSession:
    """Open an HTTP session that can reach nothing but what the config allows.

    No proxy of the environment, no cookies, nothing decompressed.
    """
    return aiohttp.ClientSession(
        connector=connector(config, resolve),
        request_class=type("Request", (GuardedRequest,), {"network": config}),
        response_class=GuardedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        **options,
    )
