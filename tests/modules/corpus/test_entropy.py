"""n-gram entropies against dictionaries, known distributions and the shared measurements."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modules.corpus import entropy
from modules.corpus.entropy import ngram_entropies
from modules.files import read_jsonl

DATA = Path(__file__).parents[3] / "data"


def with_dictionaries(train: list[int], text: list[int], vocab_size: int, w: float):
    """Both cross-entropies, the slow and plain way."""
    single, double = Counter(train), Counter(pairwise(train))
    first = Counter(train[:-1])
    unigram = bigram = 0.0
    for a, b in pairwise(text):
        p = (single[b] + 1) / (len(train) + vocab_size)
        unigram -= math.log(p)
        bigram -= math.log(w * double[a, b] / first[a] + (1 - w) * p if first[a] else p)
    n = len(text) - 1
    return unigram / n, bigram / n


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_dictionaries(seed, monkeypatch):
    monkeypatch.setattr(entropy, "CHUNK", 37)  # several chunks
    generator = np.random.default_rng(seed)
    vocab_size = 30
    train = generator.geometric(0.2, 500).clip(1, vocab_size - 3).astype(np.uint16)
    heldout = generator.geometric(0.15, 200).clip(1, vocab_size - 1).astype(np.uint16)
    found = ngram_entropies(train, heldout, vocab_size)
    rest, last = train[:450].tolist(), train[449:].tolist()
    weights = [(with_dictionaries(rest, last, vocab_size, w)[1], w) for w in entropy.WEIGHTS]
    assert found["weight"] == pytest.approx(min(weights)[1])
    expected = with_dictionaries(train.tolist(), heldout.tolist(), vocab_size, found["weight"])
    assert (found["unigram"], found["bigram"]) == pytest.approx(expected, rel=1e-12)


def test_a_fair_die_has_the_entropy_of_a_fair_die():
    tokens = np.random.default_rng(0).integers(0, 6, 200_000)
    found = ngram_entropies(tokens[:100_000], tokens[100_000:], 6)
    assert found["unigram"] == pytest.approx(math.log(6), abs=2e-3)
    assert found["bigram"] == pytest.approx(math.log(6), abs=2e-3)


def test_a_cycle_is_known_to_the_bigram_only():
    tokens = np.tile(np.arange(10), 500)
    found = ngram_entropies(tokens[:4000], tokens[4000:], 10)
    assert found["unigram"] == pytest.approx(math.log(10), abs=1e-3)
    assert found["bigram"] < 0.05
    assert found["weight"] == pytest.approx(0.99)


def test_held_out_text_never_chooses_the_weight():
    train = np.random.default_rng(1).integers(0, 20, 2000)
    cycle = np.tile(np.arange(20), 50)
    assert (
        ngram_entropies(train, cycle, 20)["weight"] == ngram_entropies(train, train, 20)["weight"]
    )


@pytest.mark.parametrize(
    ("train", "heldout", "message"),
    [
        ([1], [1, 2], "train: 1 tokens"),
        ([1, 2], [], "heldout: 0 tokens"),
        ([1, 2], [1, 9], "heldout: a token id is outside the vocabulary of 9"),
        ([-1, 2], [1, 2], "train: a token id is outside"),
    ],
)
def test_bad_input_is_named(train, heldout, message):
    with pytest.raises(ValueError, match=message):
        ngram_entropies(np.array(train, dtype=int), np.array(heldout, dtype=int), 9)


def test_the_sample_text_gives_the_numbers_measured_elsewhere(tmp_path):
    """PERFORMANCE.md: unigram 6.81, interpolated bigram 5.03 with a vocabulary of 8192."""
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    from modules import tokenizer as bpe

    texts = {
        split: [row["text"] for row in read_jsonl(DATA / "lm" / f"{split}.jsonl.zst")]
        for split in ("train", "val")
    }
    bpe.train(texts["train"], tmp_path, bpe.TokenizerConfig(vocab_size=8192))
    encoder = bpe.load(tmp_path)
    tokens = {
        split: np.concatenate([[*ids, encoder.eot] for ids in encoder.encode_batch(texts[split])])
        for split in texts
    }
    found = ngram_entropies(tokens["train"], tokens["val"], encoder.n_vocab)
    assert found["unigram"] == pytest.approx(6.81, abs=0.05)
    assert found["bigram"] == pytest.approx(5.03, abs=0.05)
