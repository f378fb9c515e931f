"""Gopher's repetition numbers (Rae et al. 2021, Table A1), ours beside datatrove's, on real pages.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install datatrove spacy
    python -m bench.repetition TEXT_DIRECTORY --peer /tmp/peer/bin/python

TEXT_DIRECTORY is one of documents, such as the extracted text of the sample. Compared are the
characters in the most frequent and in repeated n-grams, on the same words, and the verdicts of
the whole rule, where datatrove splits words by spaCy. Times are CPU seconds, both on one core.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from modules.corpus import filters, ngrams, repetition
from modules.corpus.document import Document, read_documents
from modules.corpus.recipe import QualityConfig, gopher

TOP, REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)
PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import gopher_repetition_filter as peer
rule, out, seconds = peer.GopherRepetitionFilter(), [], 0.0
for line in sys.stdin:
    text = json.loads(line)
    words = text.split()
    top = [peer.find_top_duplicate(peer.get_n_grams(words, n) or [""]) for n in (2, 3, 4)]
    again = [peer.find_all_duplicate(words, n) for n in range(5, 11)]
    began = time.process_time()
    verdict = rule.filter(Document(text=text, id="x"))
    seconds += time.process_time() - began
    out.append((top, again, "kept" if verdict is True else verdict[1]))
print(json.dumps({"seconds": seconds, "rows": out}))
"""


def main() -> None:
    """Run the comparison and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--peer", required=True, help="a Python that has datatrove and spaCy")
    arguments = parser.parse_args()
    documents = list(read_documents(arguments.texts))
    lines = "\n".join(json.dumps(document.text) for document in documents)
    done = subprocess.run(
        [arguments.peer, "-c", PEER], input=lines, capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    compare_numbers(documents, theirs["rows"])
    compare_verdicts(documents, theirs)


def compare_numbers(documents: list[Document], theirs: list) -> None:
    """Print how often the characters counted are equal."""
    equal, less, ours_total, theirs_total, tops = 0, 0, 0, 0, 0
    for document, (top, again, _) in zip(documents, theirs, strict=True):
        words = ngrams.plain_words(document.text)
        for n, other in zip(TOP, top, strict=True):
            mine = repetition.most_frequent(words, n)
            hashes = ngrams.ngram_hashes(words.hashes, n)
            # where every n-gram occurs once, datatrove takes the first, we take none
            once = mine == 0 and len(set(hashes.tolist())) == len(hashes)
            tops += mine == other or once
        for n, other in zip(REPEATED, again, strict=True):
            mine = repetition.in_repeated(words, n)
            equal, less = equal + (mine == other), less + (mine < other)
            ours_total, theirs_total = ours_total + mine, theirs_total + other
    count = len(documents)
    print(f"most frequent 2- to 4-grams: {tops} of {count * len(TOP)} counts equal")
    print(f"repeated 5- to 10-grams: {equal} of {count * len(REPEATED)} counts equal, {less} less;")
    print(f"  characters in all, ours over datatrove's: {ours_total / theirs_total:.3f}")


def compare_verdicts(documents: list[Document], theirs: dict) -> None:
    """Print on how many documents the rules agree, and what they cost."""
    steps = gopher(QualityConfig())[-4:]
    began = time.process_time()
    kept = [not isinstance(filters.apply(steps, d), filters.Dropped) for d in documents]
    seconds = time.process_time() - began
    other = [verdict == "kept" for _, _, verdict in theirs["rows"]]
    both = sum(a == b for a, b in zip(kept, other, strict=True))
    print(f"verdicts agree on {both} of {len(kept)} (kept: ours {sum(kept)}, theirs {sum(other)})")
    print(f"documents a CPU second: ours {len(kept) / seconds:,.0f}, ", end="")
    print(f"datatrove {len(kept) / theirs['seconds']:,.0f}")


if __name__ == "__main__":
    main()
