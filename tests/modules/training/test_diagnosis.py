"""What is written beside a tuned checkpoint's scores, and which rows a predictor refuses."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

from modules.files import read_jsonl
from modules.tasks import TASKS
from modules.training.config import OptimConfig
from modules.training.diagnosis import EXCERPT, diagnose, excerpt
from modules.training.finetune import finetune
from modules.training.predictor import load_tuned
from modules.training.tuning_config import FinetuneConfig


@pytest.fixture(scope="module")
def tuned(pretrained, toy_tasks, tmp_path_factory):
    """Return a barely trained model of each format."""
    optim = OptimConfig(lr=1e-2, warmup_fraction=0.1, schedule="linear")
    common = {"threads": 1, "precision": "32-true", "accelerator": "cpu", "batch_size": 16}
    config = FinetuneConfig(
        optim=optim, epochs=1, max_train_examples=32, max_val_examples=4, **common
    )
    made = {}
    for task in ("verse_pairs", "next_passage"):
        made[task] = tmp_path_factory.mktemp(task)
        finetune(pretrained, toy_tasks, made[task], config, task=task)
    return made


@pytest.mark.parametrize("task", ["verse_pairs", "next_passage"])
def test_the_diagnosis_is_that_of_the_stored_predictions(task, tuned, toy_tasks):
    found = json.loads((tuned[task] / "diagnosis.json").read_text())
    rows = list(read_jsonl(tuned[task] / "predictions.jsonl.zst"))
    truth, guesses = [r["label"] for r in rows], [r["prediction"] for r in rows]
    k = len(found["labels"])
    assert (np.array(found["confusion"]) == confusion_matrix(truth, guesses, labels=range(k))).all()
    assert found["calibration"]["accuracy"] == accuracy_score(truth, guesses)
    assert found["n"] == len(rows) and found["split"] == "test"
    wrong = [r for r in rows if r["label"] != r["prediction"]]
    assert len(found["mistakes"]) == min(len(wrong), 10)
    sure = [m["confidence"] for m in found["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    if wrong:
        assert sure[0] == max(max(r["probabilities"]) for r in wrong)
        texts = {r["id"]: r for r in map(_named, enumerate(_rows(toy_tasks, task, "test")))}
        first = found["mistakes"][0]
        for column, text in first["texts"].items():
            assert text == excerpt(texts[first["id"]][column])


def _rows(data, task, split):
    return read_jsonl(data / f"finetune/{task}/{split}.jsonl")


def _named(pair):
    number, row = pair
    return {**row, "id": str(row.get("id", number))}


def test_versions_are_compared_on_the_whole_validation_split(tuned, toy_tasks):
    scores = json.loads((tuned["verse_pairs"] / "validation.json").read_text())
    n = len(list(_rows(toy_tasks, "verse_pairs", "val")))
    assert n > 4  # of which the training looked at four
    assert [(s["metric"], s["split"], s["n"]) for s in scores] == [
        ("accuracy", "val", n),
        ("f1", "val", n),
    ]
    example = json.loads((tuned["verse_pairs"] / "example.json").read_text())
    assert set(example) == {"text_a", "text_b"}


def test_hostile_and_long_texts_stay_texts():
    nasty = "<script>alert(1)</script>" + "x" * 1000
    row = {"text_a": nasty, "text_b": "b", "label": 0}
    prediction = {"id": "0", "label": 0, "prediction": 1, "probabilities": [0.1, 0.9]}
    found = diagnose(TASKS["verse_pairs"], "test", [prediction], [prediction], [row])
    (mistake,) = found["mistakes"]
    assert mistake["texts"]["text_a"] == nasty[:EXCERPT] + " ..."
    assert (mistake["truth"], mistake["prediction"]) == ("different", "same")


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("verse_pairs", {"text_b": None}, "row 2: column 'text_b' is missing"),
        ("verse_pairs", {"text_b": float("nan")}, "row 2: column 'text_b' is nan, not a text"),
        ("verse_pairs", {"text_a": 7}, "row 2: column 'text_a' is 7, not a text"),
        ("next_passage", {"answers": "yes"}, "row 2: column 'answers' is 'yes', not a list of"),
        ("next_passage", {"answers": []}, r"row 2: column 'answers' is \[\], not a list of"),
        ("next_passage", {"answers": ["a", 1]}, "row 2: column 'answers'"),
    ],
)
def test_a_row_is_refused_by_row_and_column(task, change, words, tuned):
    predictor = load_tuned(tuned[task])
    good = json.loads((tuned[task] / "example.json").read_text())
    with pytest.raises(ValueError, match=words):
        predictor.predict([good, good | change])
    (answer,) = predictor.predict([good])
    assert answer["label"] in (predictor.labels or good["answers"])
