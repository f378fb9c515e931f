"""Documents on disk to those that stay, on disk again; how many stay."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from common import PERMUTATIONS, THRESHOLD, Prepare, Work, grams, load


def with_textmill(folder: Path, vocabulary: Path) -> Work:
    """Compare proposed pairs by their true Jaccard, too, which the others do not."""
    from modules.corpus.clean import clean
    from modules.corpus.document import Document, document_id, write_documents
    from modules.corpus.recipe import CleanConfig, FilterConfig

    out = folder / f"dedup.{os.getpid()}.tmp"
    texts = enumerate(load(folder, "text"))
    documents = (Document(id=document_id(str(i)), text=text) for i, text in texts)
    write_documents(out / "text" / "documents-00000.jsonl.zst", documents)
    filters = FilterConfig(languages=(), min_words=0, drop_wikipedia=False)

    def run() -> int:
        kept = clean(out / "text", [], out / "documents", CleanConfig(filters=filters))["kept"]
        shutil.rmtree(out)
        return kept

    return run


def write_kept(folder: Path, is_new: Callable[[str, str], bool]) -> int:
    """Write the rows of text.jsonl that are new; return how many."""
    kept, out = 0, folder / f"dedup.{os.getpid()}.tmp"
    with (folder / "text.jsonl").open() as file, out.open("w") as kept_file:
        for number, line in enumerate(file):
            if is_new(str(number), json.loads(line)["text"]):
                kept_file.write(line)
                kept += 1
    out.unlink()
    return kept


def with_rensa(folder: Path, vocabulary: Path) -> Work:
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=16)

    def is_new(key: str, text: str) -> bool:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(grams(text))
        found = lsh.query(sketch)
        lsh.insert(int(key), sketch)
        return not found

    return lambda: write_kept(folder, is_new)


def with_datasketch(folder: Path, vocabulary: Path) -> Work:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)

    def is_new(key: str, text: str) -> bool:
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        found = lsh.query(sketch)
        lsh.insert(key, sketch)
        return not found

    return lambda: write_kept(folder, is_new)


LIBRARIES: dict[str, Prepare] = {
    "textmill": with_textmill,
    "rensa": with_rensa,
    "datasketch": with_datasketch,
}
