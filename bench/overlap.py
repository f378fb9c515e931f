"""8-gram overlap: building and asking the Bloom filter, beside rbloom and a plain Python set.

    pip install rbloom            (a peer, in an environment of its own)
    python -m bench.overlap data/lm/train.jsonl.zst data/lm/test.jsonl.zst

Interleaved, one core, medians of CPU time; all three must find the same 8-grams.
"""

import argparse
import hashlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.overlap import OverlapConfig, build_filter, ngrams_of
from modules.corpus.splits import TokensConfig
from modules.files import read_jsonl

ROUNDS = 5
CONFIG = OverlapConfig(tokens=TokensConfig(val_fraction=0, test_fraction=0))


def main() -> None:
    """Run all and print rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    arguments = parser.parse_args()
    train = [row["text"] for row in read_jsonl(arguments.train)]
    test = [row["text"] for row in read_jsonl(arguments.test)]
    kinds = {"textmill": textmill, "Python set": python_set} | rbloom_if_there()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    answers: dict[str, list[bool]] = {}
    for _ in range(ROUNDS):
        for name, run in kinds.items():
            build, ask, answers[name] = run(train, test)
            times[name].append((build, ask))
    assert all(found == answers["Python set"] for found in answers.values()), "answers differ"
    built, asked = sum(map(len, map(plain, train))), len(answers["textmill"])
    print(f"{built:,} 8-grams in, {asked:,} looked up, {sum(answers['textmill'])} found by all")
    print("| | built, M 8-grams/cpu-s | looked up, M 8-grams/cpu-s |\n|---|---:|---:|")
    for name, pairs in times.items():
        build, ask = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {built / build / 1e6:.2f} | {asked / ask / 1e6:.2f} |")


def textmill(train: list[str], test: list[str]) -> tuple[float, float, list[bool]]:
    """Our filter, written to disk and all; reading the documents is not counted."""
    with tempfile.TemporaryDirectory() as directory:
        documents = [Document(document_id(str(i)), text) for i, text in enumerate(train)]
        write_documents(shard_path(Path(directory) / "in", 0), documents)
        reading = timed(lambda: sum(1 for _ in read_jsonl(shard_path(Path(directory) / "in", 0))))
        out = Path(directory) / "out"
        built, found = timed(lambda: build_filter(Path(directory) / "in", out, CONFIG))
        asked, answer = timed(lambda: found.contains(ngrams_of(test, 8)))
        return built - reading[0], asked, answer.tolist()


def plain(text: str) -> list[str]:
    """The paper's 8-grams in plain Python."""
    words = re.findall(r"[^\W_]+", text.lower())
    return [" ".join(words[i : i + 8]) for i in range(len(words) - 7)]


def python_set(train: list[str], test: list[str]) -> tuple[float, float, list[bool]]:
    """An exact set of strings."""
    built, known = timed(lambda: {gram for text in train for gram in plain(text)})
    asked, answer = timed(lambda: [gram in known for text in test for gram in plain(text)])
    return built, asked, answer


def rbloom_if_there() -> dict[str, Callable[..., Any]]:
    """The rbloom package with a hash that is the same in every process, as saving needs."""
    try:
        from rbloom import Bloom
    except ImportError:
        print("rbloom is not installed: left out")
        return {}

    def stable(gram: str) -> int:
        digest = hashlib.blake2b(gram.encode(), digest_size=16).digest()
        return int.from_bytes(digest, "big", signed=True)

    def run(train: list[str], test: list[str]) -> tuple[float, float, list[bool]]:
        known = Bloom(sum(len(text.split()) for text in train), 1e-8, hash_func=stable)
        built, _ = timed(lambda: known.update(gram for text in train for gram in plain(text)))
        asked, answer = timed(lambda: [gram in known for text in test for gram in plain(text)])
        return built, asked, answer

    return {"rbloom": run}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call and its result."""
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


if __name__ == "__main__":
    main()
