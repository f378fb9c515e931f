"""GPT-2's public sets, asked of a tiny random model from three rows in their own layouts."""

import math
from pathlib import Path

import pytest

from modules import tasks
from modules.evaluation.ask import load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.score import rolling_logprobs
from modules.evaluation.zero_shot import evaluate_subject

FIXTURES = Path(__file__).parents[1] / "tasks" / "fixtures"
ZERO_SHOT = ("perplexity", "cloze", "choice", "generation")
PUBLIC = [n for n, t in tasks.TASKS.items() if t.hub and t.format in ZERO_SHOT]
QUICK = ZeroShotConfig(bootstrap_samples=20)


@pytest.fixture(scope="module")
def subject(checkpoint):
    return load_subject(checkpoint)


@pytest.mark.parametrize("name", PUBLIC)
def test_three_rows_give_finite_scores(name, subject, tmp_path):
    task = tasks.get(name)
    scores = evaluate_subject(subject, task, FIXTURES, tmp_path, QUICK)
    assert [s.metric for s in scores] == [*task.metrics] * (1 + len(task.variants))
    assert all(math.isfinite(s.value) and s.split == task.scored[0] for s in scores)
    shots = [s.protocol.get("shots") for s in scores]
    assert shots == [task.shots if task.few_shot else None] * len(scores)


def test_another_number_of_examples_is_in_the_protocol(subject, tmp_path):
    task = tasks.get("wmt14_en_fr")
    config = QUICK.but(shots={"wmt14_en_fr": 1})
    score = evaluate_subject(subject, task, FIXTURES, tmp_path, config)[0]
    assert score.protocol["shots"] == 1


def test_text_before_a_passage_is_context_and_is_not_scored(subject, data):
    """Pieces with what stands before them add up to the whole, where all of it fits."""
    model, tokenizer = subject.model, subject.tokenizer
    pieces = ["The mill is old.\n", "We sold the cart.\n", "It rained.\n"]
    assert sum(map(len, map(tokenizer.encode, pieces))) < subject.positions
    before = ["".join(pieces[:i]) for i in range(3)]
    [(whole, tokens)] = rolling_logprobs(model, tokenizer, ["".join(pieces)], stride=128)
    parts = rolling_logprobs(model, tokenizer, pieces, stride=128, before=before)
    assert sum(p for p, _ in parts) == pytest.approx(whole, rel=1e-6)
    assert sum(n for _, n in parts) == tokens
    alone = rolling_logprobs(model, tokenizer, pieces[1:2], stride=128)
    assert alone[0][1] == parts[1][1] and alone[0][0] != pytest.approx(parts[1][0], rel=1e-6)
