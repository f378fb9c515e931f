"""Baselines agree with the data set's own report."""

import json
from pathlib import Path

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


FIXTURES = Path(__file__).parents[1] / "tasks" / "fixtures"


@pytest.mark.parametrize(
    "name", ["snli", "mnli", "scitail", "race", "mrpc", "stsb", "sst2", "cola", "copa"]
)
def test_every_format_and_metric_has_a_floor(name):
    task = tasks.get(name)
    for metric in task.metrics:
        for baseline in (majority, tfidf):
            score = baseline(task, FIXTURES, metric=metric)
            assert (score.metric, score.split) == (metric, task.scored[0])
            assert score.low <= score.value <= score.high <= 1


def test_floors_by_hand():
    """The fixtures: labels 1, 0, 1 in mrpc and cola; 5, 0.6, 3.75 in stsb."""
    value = {name: majority(tasks.get(name), FIXTURES).value for name in ("mrpc", "cola", "stsb")}
    assert value == {"mrpc": pytest.approx(0.8), "cola": 0, "stsb": 0}  # F1, Matthews, Pearson
    assert majority(tasks.get("mrpc"), FIXTURES, metric="accuracy").value == pytest.approx(2 / 3)
    assert tfidf(tasks.get("stsb"), FIXTURES).value > 0.9  # the rows it was fitted on


def test_a_split_without_labels_has_no_score():
    with pytest.raises(ValueError, match="labels of test are withheld"):
        majority(tasks.get("cola"), FIXTURES, "test")


def test_a_task_without_training_split_has_no_baseline(data):
    with pytest.raises(ValueError, match=r"lambada_like \(cloze\) has no training split"):
        tfidf(tasks.get("lambada_like"), data)
