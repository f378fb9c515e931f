"""De-duplication: documents a CPU second of each step, beside rivals; time and memory as it grows.

    python -m bench.dedup steps           # interleaved rounds on fresh texts, the median
    python -m bench.dedup scale           # 1x, 4x, 16x documents: clean() in a process of its own
    python -m bench.dedup nightly         # a tenth more on top of the 4x corpus

Texts are made from the words of the sample (their frequencies kept), about 600 words each; 5 % are
exact copies of another document and 20 % near copies.
"""

import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from modules.corpus import shingles, sketches
from modules.corpus.clean import clean
from modules.corpus.dedup import DedupConfig, find_duplicates
from modules.corpus.document import Document, document_id, shard_path, shard_paths, write_documents
from modules.corpus.lsh import Part
from modules.corpus.recipe import CleanConfig
from modules.files import read_jsonl

SAMPLE = Path(__file__).parents[1] / "data" / "web" / "main_text.jsonl.zst"
ROUNDS = 7
BATCH = 500  # documents a round
UNIT = 2_500  # documents of 1x
SHARD = 1_000
CONFIG = DedupConfig()


def words() -> list[str]:
    """Return the words of the sample's English texts, marks and case included."""
    texts = [row["main_text"].split() for row in read_jsonl(SAMPLE)]
    return [word for text in texts if text.count("the") > 0.03 * len(text) for word in text]


def text(number: int, vocabulary: list[str]) -> str:
    """Return the number-th text; copies are of an earlier one anywhere before."""
    kind, earlier = random.Random(-number).random(), random.Random(number)
    if number and kind < 0.25:
        original = text(earlier.randrange(number), vocabulary).split(" ")
        size = 0 if kind < 0.05 else round(len(original) * earlier.uniform(0.01, 0.4))
        return " ".join([*original[: len(original) - size], *earlier.choices(vocabulary, k=size)])
    return " ".join(earlier.choices(vocabulary, k=earlier.randrange(100, 1100)))


def documents(start: int, end: int) -> list[Document]:
    """Make documents."""
    vocabulary = words()
    return [
        Document(document_id(str(i)), text(i, vocabulary), url=f"https://a.example/{i}")
        for i in range(start, end)
    ]


# --- steps ---


def ours() -> dict[str, Callable]:
    """Return our steps, each from texts, so that a step's cost is a difference of two."""

    def codes(texts):
        return [shingles.word_codes(t) for t in texts]

    def exact(texts):
        return [shingles.exact_hash(t, c) for t, c in zip(texts, codes(texts), strict=True)]

    def grams(texts):
        return [shingles.ngrams(t, c, 5) for t, c in zip(texts, codes(texts), strict=True)]

    return {
        "word codes": codes,
        "  + exact hash": exact,
        "  + 5-grams": grams,
        "  + set of 5-grams (to verify)": lambda texts: [shingles.shingles(t, 5) for t in texts],
        "  + 5-grams + signature": lambda texts: sketches.signatures(grams(texts), CONFIG),
        "whole sketch": lambda texts: sketches.sketch(
            [Document(f"{i:016x}", t) for i, t in enumerate(texts)], CONFIG
        ),
    }


def rivals() -> dict[str, Callable]:
    """Return other people's libraries with shingling in Python, as their manuals do it."""
    import datasketch
    from rensa import RMinHash

    def shingle(t):
        found = re.findall(r"\w+", t.lower())
        return {" ".join(found[i : i + 5]) for i in range(max(1, len(found) - 4))}

    def by_datasketch(texts):
        for t in texts:
            minhash = datasketch.MinHash(num_perm=CONFIG.permutations)
            minhash.update_batch([gram.encode() for gram in shingle(t)])

    def by_rensa(texts):
        for t in texts:
            minhash = RMinHash(num_perm=CONFIG.permutations, seed=42)
            minhash.update(list(shingle(t)))
            minhash.digest()

    return {
        "Python sets of 5-grams": lambda texts: list(map(shingle, texts)),
        "datasketch, 128 permutations": by_datasketch,
        "rensa from strings": by_rensa,
    }


def steps() -> None:
    """Print documents a CPU second, the median of interleaved rounds on texts not seen before."""
    chosen = ours() | rivals()
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for step in chosen.values():
        step(["warm up " * 20])
    for number in range(ROUNDS):
        texts = [d.text for d in documents(10**6 + number * BATCH, 10**6 + (number + 1) * BATCH)]
        for name, step in chosen.items():
            began = time.process_time()
            step(texts)
            times[name].append(time.process_time() - began)
    size = sum(map(len, texts)) / len(texts)
    print(f"documents/cpu-s, {size:.0f} characters each, {ROUNDS} rounds of {BATCH}")
    for name, seconds in times.items():
        print(f"{name:34}{BATCH / statistics.median(seconds):10,.0f}")


# --- growth ---


def write(directory: Path, start: int, end: int) -> None:
    """Write documents in shards, unless they are there."""
    for number, first in enumerate(range(start, end, SHARD)):
        write_documents(shard_path(directory, number), documents(first, min(first + SHARD, end)))


def child(what: str, *arguments: str) -> dict:
    """Run one measurement in a process of its own; return what it printed."""
    command = [sys.executable, "-m", "bench.dedup", what, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(step: Callable) -> None:
    """Print the CPU time and peak memory of this process."""
    start = resource.getrusage(resource.RUSAGE_SELF)
    found = step()
    end = resource.getrusage(resource.RUSAGE_SELF)
    seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    print(json.dumps({"cpu_s": seconds, "peak_mib": end.ru_maxrss / 1024, "found": found}))


def run_dedup(directory: Path) -> int:
    """Find duplicates in a result of clean (nothing is old)."""
    shards = shard_paths(directory)
    parts = [Part(shard, sketches.sketches_path(shard)) for shard in shards]
    return sum(1 for _ in find_duplicates(parts, CONFIG, directory / "work"))


def run_sketch(directory: Path) -> int:
    """Sketch all shards."""
    shards = shard_paths(directory)
    for shard in shards:
        sketches.sketch_shard((shard, sketches.sketches_path(shard), CONFIG))
    return len(shards)


def scale() -> None:
    """Print time and peak memory at 1x, 4x and 16x."""
    print(
        f"{'':>8}{'documents':>11}{'step':>9}{'cpu s':>9}{'docs/cpu-s':>12}{'peak MiB':>10}  found"
    )
    with tempfile.TemporaryDirectory() as name:
        for factor in (1, 4, 16):
            text, out, count = Path(name) / f"t{factor}", Path(name) / f"o{factor}", factor * UNIT
            write(text, 0, count)
            for step in ("sketch", "find", "clean"):
                row = child(step, str(text), str(out))
                print(
                    f"{factor:>7}x{count:>11,}{step:>9}{row['cpu_s']:>9.1f}"
                    f"{count / row['cpu_s']:>12,.0f}{row['peak_mib']:>10.0f}  {row['found']}"
                )


def nightly() -> None:
    """Print what a tenth more costs on top of the 4x corpus, and a whole run over both."""
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        write(at / "old", 0, 4 * UNIT)
        write(at / "new", 4 * UNIT, 4 * UNIT + 4 * UNIT // 10)
        write(at / "both", 0, 4 * UNIT + 4 * UNIT // 10)
        child("clean", str(at / "old"), str(at / "a"))
        for title, arguments in (("on top", ("new", "b", "a")), ("from scratch", ("both", "c"))):
            row = child("clean", *(str(at / part) for part in arguments))
            print(f"{title:14}{row['cpu_s']:8.1f} cpu s{row['peak_mib']:8.0f} MiB  {row['found']}")


def main(what: str, *arguments: str) -> None:
    """Do one measurement, or a part of one in a child process."""
    paths = [Path(argument) for argument in arguments]
    if what in ("steps", "scale", "nightly"):
        {"steps": steps, "scale": scale, "nightly": nightly}[what]()
    elif what == "sketch":
        measure(lambda: run_sketch(paths[0]))
    elif what == "find":
        measure(lambda: run_dedup(paths[0]))
    else:
        base = paths[2] if len(paths) > 2 else None
        measure(lambda: clean(paths[0], [], paths[1], CleanConfig(), base=base))


if __name__ == "__main__":
    main(*sys.argv[1:])
