"""Held-out loss by domain: each document is scored once, as a whole, under its own source."""

import math
from pathlib import Path

import pytest
import torch

from modules import tokenizer as bpe
from modules.corpus.document import Document, write_documents
from modules.corpus.shards import TokensConfig, write_tokens
from modules.model import checkpoint
from modules.training import domains

TEXTS = {"sea": "the old man went down to sea", "wood": "seven small boats of blue wood"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Documents of two domains, some of them held out; one is longer than a window."""
    root = tmp_path_factory.mktemp("corpus")
    documents = [
        Document(
            id=f"{domain}-{i}",
            text=f"{text} {i}" * (9 if i == 0 else 1),
            source=domain,
            meta={"split": "test" if i < 3 else "train"},
        )
        for i in range(8)
        for domain, text in TEXTS.items()
    ]
    for name in ("documents", "tokenizer", "tokens"):
        (root / name).mkdir()
    write_documents(root / "documents/documents-00000.jsonl.zst", documents)
    config = bpe.TokenizerConfig(vocab_size=280)
    bpe.train((d.text for d in documents), root / "tokenizer", config)
    write_tokens(root / "documents", root / "tokenizer", root / "tokens", TokensConfig())
    return root


def test_each_domain_is_told(corpus, tiny):
    torch.manual_seed(0)
    model = checkpoint.build(tiny).eval()
    tokens, encoder = corpus / "tokens", bpe.load(corpus / "tokenizer")
    rows = domains.domain_scores(model, encoder, tokens, context=32, precision="float32")
    assert {row["domain"] for row in rows[:-1]} == set(TEXTS)
    assert rows[0]["tokens"] >= rows[1]["tokens"]
    assert rows[-1]["domain"] == "all" and rows[-1]["documents"] == 6
    assert rows[-1]["bytes"] == sum(
        len(f"{text} {i}") * (9 if i == 0 else 1) for text in TEXTS.values() for i in range(3)
    )
    wood = next(row for row in rows if row["domain"] == "wood")
    assert wood["nats"] == pytest.approx(nats(model, corpus, "seven small boats of blue wood"))
    assert wood["perplexity"] == pytest.approx(math.exp(wood["nats"] / wood["tokens"]))
    assert wood["bits_per_byte"] == pytest.approx(wood["nats"] / math.log(2) / wood["bytes"])


def nats(model, corpus: Path, text: str) -> float:
    """The same by hand: window after window of 32 tokens, the last one as long as the others."""
    encoder, total = bpe.load(corpus / "tokenizer"), 0.0
    for i in range(3):
        ids = [encoder.eot, *encoder.encode(f"{text} {i}" * (9 if i == 0 else 1))]
        for done in range(0, len(ids) - 1, 32):
            start = max(0, min(done, len(ids) - 1 - 32))
            window = torch.tensor([ids[start : start + 33]])
            with torch.no_grad():
                logits = model.logits(model(window[:, :-1]))[0, done - start :]
            targets = window[0, 1 + done - start :]
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total


def test_small_domains_are_counted_together(monkeypatch):
    monkeypatch.setattr(domains, "MOST", 1)
    texts = [domains.HeldOut(name, 1, [0] * n) for name, n in (("a", 3), ("b", 9), ("c", 2))]
    found = domains.named_domains(texts)
    assert {name: len(part) for name, part in found.items()} == {"b": 1, domains.REST: 2}
