"""Texts to a file of GPT-2's ids as uint16 on disk; ids written."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from common import END, Prepare, Work, load


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


def with_tiktoken(folder: Path, vocabulary: Path) -> Work:
    import tiktoken

    # tiktoken's own pattern for GPT-2 (tiktoken_ext/openai_public.py)
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    ranks = gpt2(vocabulary)
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    encoding.encode_ordinary("warm")
    texts = load(folder, "text")
    return lambda: write_ids(map(encoding.encode_ordinary, texts), len(ranks), folder)


def with_tokenizers(folder: Path, vocabulary: Path) -> Work:
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_file(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = tokenizer.token_to_id(END)
    return lambda: write_ids((e.ids for e in tokenizer.encode_batch_fast(texts)), eot, folder)


def with_tokie(folder: Path, vocabulary: Path) -> Work:
    from tokie import Tokenizer

    tokenizer, texts = Tokenizer.from_json(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = tokenizer.token_to_id(END)
    return lambda: write_ids((tokenizer.encode(text).ids for text in texts), eot, folder)


def with_gigatoken(folder: Path, vocabulary: Path) -> Work:
    from gigatoken import Tokenizer

    tokenizer, texts = Tokenizer(str(vocabulary / "tokenizer.json")), load(folder, "text")
    eot = len(gpt2(vocabulary))
    return lambda: write_ids(map(tokenizer.encode, texts), eot, folder)


def with_textmill(folder: Path, vocabulary: Path) -> Work:
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


LIBRARIES: dict[str, Prepare] = {
    "textmill": with_textmill,
    "gigatoken": with_gigatoken,
    "tokie": with_tokie,
    "tiktoken": with_tiktoken,
    "tokenizers": with_tokenizers,
}
