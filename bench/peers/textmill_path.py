"""textmill's way from WARC files to tokens, in one process tree, for bench/corpus.py.

    python -m bench.peers.textmill_path WARCS OUT VOCABULARY

The links step is left out (datatrove has none): WARCS holds a links.jsonl.zst that names all pages.
Prints a JSON line {step: [wall seconds, CPU seconds], counts: {...}}.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.corpus.clean import clean
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.pages import PagesConfig, select_pages
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.corpus.shards import TokensConfig, write_tokens

MIN_WORDS = 96  # FilterConfig's default, the same in datatrove_path.py

SHARD_DOCUMENTS = 1000  # memory goes by the shard: so one is full at every scale


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(r) for r in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main(warcs: Path, out: Path, vocabulary: Path) -> None:
    """Run the steps one after the other, timing each."""
    files = sorted(warcs.glob("*.warc.gz"))
    times: dict[str, list[float]] = {}
    counts: dict[str, Any] = {}

    def step(name: str, run: Callable[[], dict[str, int]]) -> None:
        wall, cpu = time.perf_counter(), cpu_seconds()
        counts[name] = run()
        times[name] = [time.perf_counter() - wall, cpu_seconds() - cpu]

    pages = PagesConfig(blocklist="none")
    filters = FilterConfig(min_words=MIN_WORDS, drop_wikipedia=False)
    step("pages", lambda: select_pages(warcs, files, warcs, out / "pages", pages))
    step("text", lambda: extract_text(out / "pages", warcs, out / "text", ExtractConfig()))
    config = CleanConfig(filters=filters, shard_documents=SHARD_DOCUMENTS)
    step("clean", lambda: clean(out / "text", [], out / "documents", config))
    step(
        "tokens",
        lambda: write_tokens(out / "documents", vocabulary, out / "tokens", TokensConfig()),
    )
    print(json.dumps({"steps": times, "counts": counts}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
