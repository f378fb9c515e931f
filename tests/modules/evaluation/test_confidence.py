"""Confidence of generated answers: bins add up, the most confident come first."""

import math

import pytest

from modules.evaluation.confidence import most_confident, reliability_of
from modules.evaluation.metrics import exact_match


def answers(count: int = 200) -> list[dict]:
    """Answers of which a share p is right where the model says p: perfectly calibrated."""
    rows = []
    for i in range(count):
        p = (i % 10 + 0.5) / 10
        right = (i // 10) % 20 < round(p * 20)
        row = {"id": f"{i:03}", "logprob": math.log(p), "reference": ["yes"]}
        rows.append(row | {"prediction": "Yes." if right else "no"})
    return rows


def test_calibrated_answers_have_no_error():
    found = reliability_of(answers(), exact_match)
    assert found["n"] == 200 and sum(b["n"] for b in found["bins"]["equal_width"]) == 200
    assert found["expected_error"]["equal_width"] == pytest.approx(0, abs=1e-12)
    assert found["accuracy"] == pytest.approx(found["confidence"])
    for bin in found["bins"]["equal_width"]:
        assert bin["low"] < bin["confidence"] <= bin["high"]


def test_the_error_is_the_gap_by_hand():
    rows = [
        {"id": "a", "logprob": math.log(0.9), "prediction": "x", "reference": ["y"]},
        {"id": "b", "logprob": math.log(0.2), "prediction": "y", "reference": ["y"]},
    ]
    found = reliability_of(rows, exact_match)
    assert found["expected_error"]["equal_width"] == pytest.approx((0.9 + 0.8) / 2)
    assert [r["right"] for r in found["most_confident"]] == [False, True]
    assert found["most_confident"][0]["probability"] == pytest.approx(0.9)


def test_the_most_confident_first():
    rows = answers()
    tops = most_confident(rows)
    assert {percent: len(top) for percent, top in tops.items()} == {1: 2, 10: 20}
    assert {row["id"] for row in tops[1]} <= {row["id"] for row in tops[10]}
    assert min(r["logprob"] for r in tops[10]) == math.log(0.95)
    assert most_confident(rows[:20]).keys() == {10}
