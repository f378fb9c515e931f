"""Try to be connected to private addresses, in a network namespace of its own.

Runs under `unshare --net`. This machine has the private addresses and one public one, where a
server redirects to whatever its path says; a listener on all addresses notes where each
connection arrives. Prints the count of connections by private address.
"""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import quote, unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import aiohttp

from modules.corpus.client import HttpConfig
from modules.corpus.crawl import FetchConfig
from modules.corpus.fetch import fetch_pages
from modules.corpus.network import BlockedAddress, NetworkConfig, open_session
from modules.files import read_jsonl

PUBLIC = "93.184.215.14"
PRIVATE = ("127.0.0.1", "127.1.2.3", "169.254.169.254", "10.0.0.5", "::1")
SPELLINGS = """
127.0.0.1 127.1 127.0.1 127.0.0.1. 127.1. 127.1.2.3 127.255.255.254 0177.0.0.1 0x7f.0.0.1 0x7f.1
0x7f000001 0X7F000001 2130706433 017700000001 00000000177.0.0.1 127.0x0.0.1 0 0.0.0.0 0x0 00
localhost localhost. LOCALHOST LocalHost.localdomain ip6-localhost localhost.localhost
169.254.169.254 169.254.43518 169.16689662 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 2852039166
0251.0376.0251.0376 025177524776 169.254.169.254. 10.0.0.5 10.5 10.0.5 0xa.0.0.5 167772165
012.0.0.5 01200000005 0xa000005 10.0.0.5.
[::1] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::] [::127.0.0.1]
[::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:0001] [::FFFF:127.1.2.3]
[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [::ffff:10.0.0.5] [::ffff:a00:5] [::ffff:0:127.0.0.1]
[64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::7f00:1] [2002:7f00:1::]
[2002:a9fe:a9fe::1] [2002:a00:5::] [2001:0:7f00:1::] [2001::7f00:1] [fe80::1%25lo] [::1%25lo]
[fc00::1] [fec0::1] [ff02::1] 224.0.0.1 255.255.255.255 192.0.0.8
127。0。0。1 127｡0｡0｡1 127．0．0．1 １２７.0.0.1 ①②⑦.⓪.⓪.① 1②7.0.0.1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ
%31%32%37.0.0.1 %6c%6f%63%61%6c%68%6f%73%74 127.0.0.1%00.evil.example 127.0.0.1%2f.evil.example
""".split()
FORMS = {
    "plain": "http://{host}/{n}",
    "port": "http://{host}:8080/{n}",
    "tls": "https://{host}/{n}",
    "user": "http://public.example@{host}/{n}",
    "user2": "http://{host}:80@{host}/{n}",
    "backslash": "http://{host}\\@public.example/{n}",
    "fragment": "http://{host}#@public.example/{n}",
}
REDIRECTS = ("plain", "port", "tls", "user", "backslash")

arrived: Counter[str] = Counter()
resolved: Counter[str] = Counter()


async def resolve(host: str) -> list[str]:
    """Be a hostile name server: `a.ADDRESS.HOW.example` answers by HOW."""
    resolved[host] += 1
    if not host.endswith(".example"):  # what is not ours is what the system says
        return [str(i[4][0]) for i in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    how = host.split(".")[-2]
    address = bytes.fromhex(host.split(".")[0]).decode() if how != "public" else PUBLIC
    match how:
        case "first":
            return [PUBLIC] if resolved[host] == 1 else [address]
        case "second":
            return [address] if resolved[host] == 1 else [PUBLIC]
        case "both":
            return [PUBLIC, address]
        case "only":
            return [address]
    return [PUBLIC]


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Note an arrival; redirect to what the path says."""
    arrived[writer.get_extra_info("sockname")[0].removeprefix("::ffff:")] += 1
    try:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        to = unquote(path.partition("/to/")[2])
        status = "302 Found" if to else "404 Not Found"
        fields = f"Location: {to}\r\n" if to else ""
        head = f"HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def tricks() -> list[str]:
    """Return the addresses to try."""
    found = []
    for n, host in enumerate(SPELLINGS):
        found += [form.format(host=host, n=n) for form in FORMS.values()]
        for name in REDIRECTS:
            to = quote(FORMS[name].format(host=host, n=n), safe="")
            found.append(f"http://r{n}-{name}.public.example/to/{to}")
    for address in (*PRIVATE, "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0"):
        for how in ("first", "second", "both", "only"):
            for port in (80, 8080):
                host = f"{address.encode().hex()}.p{port}.{how}.example"
                found.append(f"http://{host}:{port}/")
                found.append(f"http://x{port}.{host}.public.example/to/http%3A%2F%2F{host}%2F")
    return found


async def past_the_first_door(urls: list[str], network: NetworkConfig) -> None:
    """Ask the bare session, which follows redirects itself here."""
    resolved.clear()
    timeout = aiohttp.ClientTimeout(total=3)
    async with open_session(network, resolve, timeout=timeout) as session:

        async def ask(url: str) -> None:
            try:
                async with session.get(url) as response:
                    await response.read()
            except (aiohttp.ClientError, BlockedAddress, OSError, ValueError):
                pass

        await asyncio.gather(*map(ask, urls))


async def listen() -> list[asyncio.Server]:
    """Listen on all addresses of this machine."""
    servers = []
    for port in (80, 443, 8080):
        servers.append(await asyncio.start_server(connected, "0.0.0.0", port))
        servers.append(await asyncio.start_server(connected, "::", port, family=socket.AF_INET6))
    return servers


def fetch(urls: list[str], network: NetworkConfig) -> int:
    """Run the step on all tricks; return how many became pages."""
    resolved.clear()
    config = FetchConfig(
        contact="mailto:nobody@example.com",
        network=network,
        per_host_delay_seconds=0.0,
        host_failures=10**6,
        retries=0,
        http=HttpConfig(total_seconds=3, connect_seconds=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        counts = fetch_pages(({"url": url} for url in urls), out, config, resolve=resolve)
        assert len(list(read_jsonl(out / "outcomes.jsonl.zst"))) == len(set(urls))
    return counts["pages"]


async def main() -> None:
    """Set up the network, try everything, tell what arrived where."""
    for command in (
        "ip link set lo up",
        *(f"ip addr add {a}/32 dev lo" for a in (PUBLIC, "169.254.169.254", "10.0.0.5")),
    ):
        subprocess.run(command.split(), check=True)
    await listen()
    urls, network = tricks(), NetworkConfig(ports=())
    pages = await asyncio.to_thread(fetch, urls, network)
    await past_the_first_door(urls, network)
    told = {"tricks": len(set(urls)), "pages": pages, "public": arrived.pop(PUBLIC, 0)}
    told["private"] = dict(arrived)
    arrived.clear()
    everything = NetworkConfig(ports=(), allow_networks=("0.0.0.0/0", "::/0"))
    await past_the_first_door(urls[::5], everything)
    del arrived[PUBLIC]
    told["unguarded"] = sum(arrived.values())
    arrived.clear()
    for address in PRIVATE:
        _, writer = await asyncio.open_connection(address, 80)
        writer.close()
    await asyncio.sleep(0.2)
    sys.stdout.write(json.dumps(told | {"control": sum(arrived.values())}))


asyncio.run(main())
