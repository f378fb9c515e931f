"""Texts to 128 MinHash values of their word 5-grams; signatures made."""

from pathlib import Path

from common import NGRAM, PERMUTATIONS, Prepare, Work, grams, load


def with_textmill(folder: Path, vocabulary: Path) -> Work:
    try:
        from modules.corpus.shingles import shingles
        from modules.corpus.sketches import DedupConfig, signatures
    except ImportError:  # before de-duplication went to disk; to be removed then
        from modules.corpus.dedup import DedupConfig, shingles, signatures

    texts, config = load(folder, "text"), DedupConfig()
    shingles(texts[0], NGRAM)
    return lambda: len(signatures([shingles(text, NGRAM) for text in texts], config))


def with_rensa(folder: Path, vocabulary: Path) -> Work:
    from rensa import RMinHash

    texts = load(folder, "text")

    def signature(text: str) -> list[int]:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(grams(text))
        return sketch.digest()

    return lambda: len([signature(text) for text in texts])


def with_datasketch(folder: Path, vocabulary: Path) -> Work:
    from datasketch import MinHash

    texts = load(folder, "text")

    def signature(text: str) -> object:
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        return sketch.digest()

    return lambda: len([signature(text) for text in texts])


def with_datatrove(folder: Path, vocabulary: Path) -> Work:
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(num_buckets=16, hashes_per_bucket=PERMUTATIONS // 16)
    step = MinhashDedupSignature(str(folder / "sigs.tmp"), config)
    texts = load(folder, "text")
    step.get_signature(step.get_shingles(texts[0]))
    return lambda: len([step.get_signature(step.get_shingles(text)) for text in texts])


LIBRARIES: dict[str, Prepare] = {
    "textmill": with_textmill,
    "rensa": with_rensa,
    "datasketch": with_datasketch,
    "datatrove": with_datatrove,
}
