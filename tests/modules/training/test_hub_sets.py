"""Public sets end to end: rows in the hub's layout -> tuned checkpoint -> scores of every split."""

import json
from pathlib import Path

import pytest

from modules import tasks
from modules.files import read_jsonl
from modules.rows import read_rows
from modules.task import find_split, load_split
from modules.training.finetune import finetune
from modules.training.predictor import load_tuned
from modules.training.tuning_config import FinetuneConfig

FIXTURES = Path(__file__).parents[1] / "tasks" / "fixtures"


@pytest.mark.parametrize("name", ["snli", "mnli", "scitail", "race", "story_cloze", "copa", "stsb"])
def test_fixtures_are_learnt_scored_and_asked(pretrained, tmp_path, name):
    task, out = tasks.get(name), tmp_path / "tuned"
    config = FinetuneConfig(epochs=1, batch_size=2, threads=1, accelerator="cpu")
    assert finetune(pretrained, FIXTURES, out, config, task=name)

    scores = json.loads((out / "scores.json").read_text())
    assert [(s["split"], s["metric"]) for s in scores] == [
        (split, metric) for split in task.scored for metric in task.metrics
    ]
    for number, split in enumerate(task.scored):
        file = f"predictions-{split}" if number else "predictions"
        predicted = list(read_jsonl(out / f"{file}.jsonl.zst"))
        rows = load_split(task, FIXTURES, split).rows
        assert [p["id"] for p in predicted] == [row["id"] for row in rows]
        assert [p["label"] for p in predicted] == [row["label"] for row in rows]

    facts = json.loads((out / "training.json").read_text())
    assert facts["no_gold"] == {
        split: load_split(task, FIXTURES, split).no_gold
        for split in task.splits
        if split not in task.withheld
    }
    withheld = task.withheld[0] if task.withheld else task.scored[0]
    asked = load_tuned(out).predict(list(read_rows(find_split(task, FIXTURES, withheld))))
    assert len(asked) == 3
    if task.scale:
        assert all(task.scale[0] <= answer["label"] <= task.scale[1] for answer in asked)
