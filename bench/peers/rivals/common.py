"""What the single steps share."""

import json
import re
from collections.abc import Callable
from pathlib import Path

PERMUTATIONS = 128
NGRAM = 5  # words
THRESHOLD = 0.7  # Jaccard, as DedupConfig has it
END = "<|endoftext|>"

Work = Callable[[], int]
"""What is timed; returns a number to compare."""
Prepare = Callable[[Path, Path], Work]
"""prepare(folder of the input, folder of the vocabulary): load, warm up, return the work"""


def load(folder: Path, name: str) -> list[str]:
    """Return the html or text of every page."""
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)[name] for line in file]


def words(text: str) -> list[str]:
    """Split as textmill does."""
    return re.findall(r"\w+", text.lower())


def grams(text: str) -> list[str]:
    """Return the word 5-grams of a text, joined by blanks."""
    found = words(text)
    return [" ".join(found[i : i + NGRAM]) for i in range(max(1, len(found) - NGRAM + 1))]
