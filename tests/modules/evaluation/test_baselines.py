"""Baselines agree with the data set's own report."""

import json

import pytest

from modules import tasks
from modules.evaluation.baselines import majority, tfidf


@pytest.mark.parametrize("name", ["verse_pairs", "next_passage"])
def test_baselines_are_near_the_report(name, data):
    report = json.loads((data / "finetune" / "report.json").read_text())[name]
    floor = majority(tasks.get(name), data)
    assert floor.n == report["counts"]["test"]
    assert floor.value <= report["majority_test"] + 1e-4  # of the training split's majority
    bag = tfidf(tasks.get(name), data)
    assert bag.value == pytest.approx(report["tfidf_lr_test"], abs=0.05)
    assert bag.low < bag.value < bag.high
    assert bag.protocol["baseline"] == "tfidf logistic regression"


def test_a_task_without_training_split_has_no_baseline(data):
    with pytest.raises(ValueError, match=r"lambada_like \(cloze\) has no training split"):
        tfidf(tasks.get("lambada_like"), data)
