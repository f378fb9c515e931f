"""The fetch step in a process of its own: to be killed, or to have its memory measured."""

import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from modules.corpus.crawl import FetchConfig
from modules.corpus.fetch import fetch_pages


async def resolve(host: str) -> list[str]:
    return ["127.0.0.1"]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


job = json.loads(sys.stdin.read())
before, start = peak_mb(), time.monotonic()
config = FetchConfig.model_validate(job["config"])
links = ({"url": url} for url in job["urls"])
fetch_pages(links, Path(job["out"]), config, resolve=resolve)
done = {"seconds": time.monotonic() - start, "growth_mb": peak_mb() - before}
sys.stdout.write(json.dumps(done) + "\n")
