"""Memorisation is seen where it is planted, and only there."""

import pytest

from modules import tasks
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.overlap import OverlapConfig, build_filter, overlap_table
from modules.corpus.splits import TokensConfig
from modules.evaluation import memory
from modules.evaluation.ask import load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.score import score_groups
from modules.evaluation.spans import rolling_spans
from modules.evaluation.zero_shot import evaluate_subject
from modules.files import read_jsonl

ALL_TRAIN = TokensConfig(val_fraction=0, test_fraction=0)
CONFIG = OverlapConfig(random_strings=1000, tokens=ALL_TRAIN)
ASKED = ZeroShotConfig(bootstrap_samples=20)


@pytest.fixture(scope="module")
def subject(checkpoint):
    return load_subject(checkpoint)


def write_corpus(folder, texts) -> None:
    documents = [Document(document_id(str(i)), text) for i, text in enumerate(texts)]
    write_documents(shard_path(folder, 0), documents)


def test_scores_are_split_by_planted_duplicates(subject, data, tmp_path):
    """Every second passage of LAMBADA is in the corpus: exactly those are in "any"."""
    task = tasks.get("lambada_like")
    passages = [row["text"] for row in read_jsonl(data / "zeroshot" / "lambada_like.jsonl.zst")]
    write_corpus(tmp_path / "in", passages[::2])
    overlap_table(tmp_path / "in", data, [task], tmp_path / "table", CONFIG)
    overlap = list(read_jsonl(tmp_path / "table" / "items.jsonl.zst"))
    planted = overlap[::2]
    assert all(row["in_corpus"] == row["ngrams"] > 0 for row in planted), "recall is 100 %"
    scores = evaluate_subject(subject, task, data, tmp_path / "out", ASKED)
    rows = list(read_jsonl(tmp_path / "out" / "items" / "lambada_like.jsonl.zst"))
    found = memory.scores_by_overlap(rows, overlap, task, ASKED, 256)
    assert found["all"] == scores
    assert found["none"][0].n + found["any"][0].n == len(passages)
    assert found["over 15 %"][0].n >= len(planted)
    mean = sum(rows[i]["nll"] for i, row in enumerate(overlap) if row["in_corpus"]) / (
        found["any"][0].n
    )
    import math

    by = {score.metric: score for score in found["any"]}
    assert by["perplexity"].value == pytest.approx(math.exp(mean))


def test_items_of_other_data_are_refused():
    assert memory.owner("a/3", {"a": 0}) == "a" and memory.owner("a/3", {"a/3": 0}) == "a/3"
    with pytest.raises(ValueError, match="item b/1: the overlap has no such row"):
        memory.owner("b/1", {"a": 0})


def test_a_text_of_the_corpus_overlaps_with_it(subject, tmp_path):
    text = "In the beginning God created the heaven and the earth and all that is in them. " * 3
    write_corpus(tmp_path / "in", [text])
    found = build_filter(tmp_path / "in", tmp_path / "filter", CONFIG)
    known, other = subject.tokenizer.encode(text), subject.tokenizer.encode("Nine " * 40)
    assert memory.share_of(subject, known, found) == 1
    assert memory.share_of(subject, other, found) == 0
    assert memory.share_of(subject, known[:3], found) is None
    told = memory.summary([1.0, 0.0, 0.005, None])
    assert told == {"texts": 3, "median": 0.005, "none": 1 / 3, "under_1_percent": 2 / 3}


def test_nats_of_texts_are_those_of_their_own_windows(subject):
    texts = [subject.tokenizer.encode(text) for text in ("In the beginning " * 90, "And God said")]
    nats, counts = memory.nats_of(subject, texts)
    assert counts == [len(ids) for ids in texts] and counts[0] > subject.positions
    for ids, value in zip(texts, nats, strict=True):
        spans = rolling_spans(ids, subject.tokenizer.eot, subject.positions, subject.positions)
        alone = [score_groups(subject.model, [[span]])[0][0].logprob for span in spans]
        assert value == pytest.approx(-sum(alone))
