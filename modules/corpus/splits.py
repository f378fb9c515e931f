"""Which documents are for training, which for tuning and which for the last word."""

import hashlib
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from modules.config import Config
from modules.corpus.document import Document

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class TokensConfig(Config):
    """How documents are divided into splits and shards."""

    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of documents held out for tuning: 5 % in the GPT-2 paper (section 3), 0.05 % in
    nanoGPT's OpenWebText. A document with meta["split"] goes there whatever its hash says."""

    test_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of documents kept for the last word; the paper gives no size, we take 5 % again."""

    tokens_per_shard: int = Field(default=2**26, ge=1)
    """Tokens in one file (a document may run on in the next one); 2^26 are 128 MiB as uint16."""

    @model_validator(mode="after")
    def _leaves_training_text(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1")
        return self


def split_of(document_id: str, config: TokensConfig) -> Split:
    """Return the split of a document, from its id alone.

    So it never moves as the corpus grows; a larger fraction only adds documents to a split.
    """
    digest = hashlib.sha256(b"split\0" + document_id.encode("utf-8", "replace")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64  # uniform on [0, 1)
    if position < config.val_fraction:
        return "val"
    return "test" if position >= 1 - config.test_fraction else "train"


def split_of_document(document: Document, config: TokensConfig) -> Split:
    """Return the split that a ready-made text set gave its document, else that of its id."""
    split = document.meta.get("split")
    if split is None:
        return split_of(document.id, config)
    if split not in SPLITS:
        raise ValueError(f"document {document.id}: unknown split {split!r}, expected {SPLITS}")
    return split


def fractions(config: TokensConfig) -> dict[str, float]:
    """Return what decides the split of a document."""
    return {"val": config.val_fraction, "test": config.test_fraction}
