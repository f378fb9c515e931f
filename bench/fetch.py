"""How many pages a second the fetch step brings from loopback, and how memory grows with links.

    python -m bench.fetch [pages ...]

Runs the step in processes of their own, interleaved, against the healthy server of the tests, with
no pauses: what is measured is the step's own work (scheduling, HTTP, decoding, WARC), for which
the politeness of a real crawl leaves plenty of time.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from modules.corpus.crawl import FetchConfig
from modules.corpus.network import NetworkConfig

TESTS = Path(__file__).resolve().parents[1] / "tests" / "modules" / "corpus"


def run(port: int, pages: int, number: int) -> dict[str, float]:
    """Fetch that many pages of a hundredth as many hosts; return seconds and memory."""
    config = FetchConfig(
        network=NetworkConfig(allow_networks=("127.0.0.1/32",), ports=()),
        per_host_delay_seconds=0.0,
        part_links=500,
    )
    hosts = max(1, pages // 100)
    urls = [f"http://h{n % hosts}-{number}.bench.example:{port}/{n}" for n in range(pages)]
    with tempfile.TemporaryDirectory() as out:
        job = {"urls": urls, "out": out, "config": config.model_dump(mode="json")}
        command = [sys.executable, str(TESTS / "fetch_alone.py")]
        done = subprocess.run(command, input=json.dumps(job).encode(), stdout=-1, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    assert told["pages"] == pages
    return told


def main() -> None:
    """Measure, and print a table."""
    sizes = [int(argument) for argument in sys.argv[1:]] or [500, 2000, 8000]
    servers = subprocess.Popen(
        [sys.executable, str(TESTS / "servers.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert servers.stdin is not None and servers.stdout is not None
    port = json.loads(servers.stdout.readline())["healthy"]
    print("| pages | seconds | pages/s | CPU ms/page | memory growth MiB |")
    print("|---|---|---|---|---|")
    for number in range(2):
        for pages in sizes:
            told = run(port, pages, number)
            rate, cpu = pages / told["seconds"], told["cpu_seconds"] / pages * 1000
            row = f"| {pages} | {told['seconds']:.1f} | {rate:.0f} | {cpu:.2f} "
            print(f"{row}| {told['growth_mb']:.0f} |", flush=True)
    servers.stdin.close()
    servers.wait()


if __name__ == "__main__":
    main()
