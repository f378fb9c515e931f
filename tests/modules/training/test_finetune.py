"""Fine-tuning: input transformations and the auxiliary loss by hand, four formats end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules import tokenizer as bpe
from modules.files import read_jsonl, write_jsonl
from modules.model.checkpoint import load, load_task_model
from modules.task import Example
from modules.tasks import TASKS
from modules.training.config import OptimConfig
from modules.training.finetune import FinetuneData, FinetuneModule, build, finetune
from modules.training.predictor import load_tuned
from modules.training.transform import encode, fit, micro_batches
from modules.training.tuning_config import FinetuneConfig


def config_of(**changes) -> FinetuneConfig:
    return FinetuneConfig(
        **{
            "optim": OptimConfig(lr=1e-2, warmup_fraction=0.1, schedule="linear"),
            "batch_size": 16,
            "threads": 1,
            "precision": "32-true",
            "accelerator": "cpu",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def tokenizer(corpus) -> bpe.Tokenizer:
    return bpe.load(Path(corpus["tokenizer"]))


@pytest.mark.parametrize(
    ("form", "texts", "shape"),
    [
        ("classification", (("the sea",),), [["S", "the sea", "E"]]),
        ("entailment", (("the sea", "wood"),), [["S", "the sea", "D", "wood", "E"]]),
        (
            "similarity",
            (("dog", "wood"), ("wood", "dog")),
            [["S", "dog", "D", "wood", "E"], ["S", "wood", "D", "dog", "E"]],
        ),
        (
            "multiple_choice",
            (("dog which", "wood"), ("dog which", "sea")),
            [["S", "dog which", "D", "wood", "E"], ["S", "dog which", "D", "sea", "E"]],
        ),
    ],
)
def test_the_four_input_formats(form, texts, shape, tokenizer):
    special = {"S": [280], "D": [281], "E": [282]}  # GPT-1, Figure 1; gpt1.md 4.4
    (got,) = encode([Example("x", texts, 0)], tokenizer, form, first=280, longest=32)
    wanted = [[i for part in s for i in special.get(part) or tokenizer.encode(part)] for s in shape]
    assert [list(s) for s in got.sequences] == wanted and not got.cut


def test_what_is_cut_where():
    a, b = list(range(300)), list(range(1000, 1300))
    # the release: n_ctx // 2 - 2 = 254 of each segment, 511 tokens at most (gpt1.md 4.5)
    assert fit([a, b], "entailment", 512) == [a[:254], b[:254]]
    assert fit([a], "classification", 302) == [a]
    assert fit([a], "classification", 301) == [a[:299]]
    # multiple choice: the answer whole, of document and question the last that fit
    assert fit([a, b[:10]], "multiple_choice", 33) == [a[-20:], b[:10]]
    assert fit([a, b[:10]], "multiple_choice", 16) == [a[-4:], b[:9]]


def loss_by_hand(model, examples, weight):
    """L2 + lambda L1, one sequence at a time, as gpt1.md 4.2 words it."""
    clf, lm = [], []
    for example in examples:
        states = []
        for ids in example.sequences:
            tokens = torch.tensor([ids])
            hidden = model.decoder(tokens)
            states.append(hidden[0, ids.index(282)])
            logits = hidden[0, :-1] @ model.decoder.wte.weight.T
            lm.append(F.cross_entropy(logits, tokens[0, 1:]))  # delimiter and extract count
        if model.config.format == "multiple_choice":
            scores = torch.cat([model.head(state) for state in states])
        else:
            scores = model.head(sum(states))
        clf.append(F.cross_entropy(scores[None], torch.tensor([example.label])))
    return torch.stack(clf).mean() + weight * torch.stack(lm).mean()


@pytest.mark.parametrize(
    "task", ["passage_source", "question_in_sentence", "verse_pairs", "next_passage"]
)
def test_loss_and_gradient_equal_the_sum_over_single_sequences(
    task, pretrained, toy_tasks, tokenizer
):
    config = config_of(clf_dropout=0.0, dropout=0.0, tokens_per_micro_batch=200)
    model = build(pretrained, TASKS[task], config)
    rows = list(read_jsonl(toy_tasks / f"finetune/{task}/train.jsonl"))[:16]
    labels = TASKS[task].labels
    for row in rows:
        if isinstance(row["label"], str):
            row["label"] = labels.index(row["label"])
    examples = encode(TASKS[task].items(rows), tokenizer, TASKS[task].format, first=280, longest=32)
    wanted = loss_by_hand(model, examples, 0.5)
    wanted_grads = torch.autograd.grad(wanted, list(model.parameters()))
    module = FinetuneModule(model, config, examples, total=1)
    parts = micro_batches(examples, config.tokens_per_micro_batch)
    assert len(parts) > 1
    got = sum(module.micro_loss(part) for part in parts)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(got, list(model.parameters())), wanted_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_separable_task_is_learnt_and_can_be_asked(pretrained, toy_tasks, tmp_path):
    events = []
    config = config_of(epochs=15)
    counts = finetune(
        pretrained, toy_tasks, tmp_path, config, task="passage_source", emit=events.append
    )
    assert counts["steps"] == 90 and counts["train_examples"] == 96
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {
        "config.json",
        "curve.jsonl",
        "diagnosis.json",
        "example.json",
        "model.safetensors",
        "predictions-val.jsonl.zst",
        "predictions.jsonl.zst",
        "scores.json",
        "task.json",
        "tokenizer/encoder.json",
        "tokenizer/vocab.bpe",
        "training.json",
        "validation.json",
    }
    (score,) = json.loads((tmp_path / "scores.json").read_text())
    assert score["value"] >= 0.95 and score["n"] == 40 and score["split"] == "test"
    assert score["low"] <= score["value"] <= score["high"]
    rows = list(read_jsonl(tmp_path / "predictions.jsonl.zst"))
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == score["value"] and len(rows) == 40
    assert any("val_accuracy" in event for event in events)

    tuned = load_tuned(tmp_path)
    test = list(read_jsonl(toy_tasks / "finetune/passage_source/test.jsonl"))
    answers = tuned.predict([{"text": row["text"]} for row in test])
    assert [a["index"] for a in answers] == [row["prediction"] for row in rows]
    assert answers[0]["label"] in TASKS["passage_source"].labels
    with pytest.raises(ValueError, match="row 2: column 'text' is missing"):
        tuned.predict([{"text": "the sea"}, {"texts": "x"}])
    assert load(tmp_path).config.vocab_size == 283  # the decoder alone still loads


@pytest.mark.parametrize(
    ("task", "likelihood"),
    [
        ("question_in_sentence", True),
        ("verse_pairs", False),
        ("next_passage", False),
        ("next_passage", True),
    ],
)
def test_every_format_runs_to_scores(task, likelihood, pretrained, toy_tasks, tmp_path):
    config = config_of(epochs=1, max_train_examples=40, max_val_examples=10, likelihood=likelihood)
    counts = finetune(pretrained, toy_tasks, tmp_path, config, task=task)
    assert counts["steps"] == 2  # floor(40 / 16): the release drops the rest
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [s["metric"] for s in scores] == list(TASKS[task].metrics)
    about = json.loads((tmp_path / "task.json").read_text())
    assert about["format"] == TASKS[task].format
    fields = [c for c in TASKS[task].columns if c != "label"]
    row = next(read_jsonl(toy_tasks / f"finetune/{task}/test.jsonl"))
    (answer,) = load_tuned(tmp_path).predict([{name: row[name] for name in fields}])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-4)
    first = next(read_jsonl(tmp_path / "predictions.jsonl.zst"))
    assert answer["probabilities"] == pytest.approx(first["probabilities"], abs=1e-4)
    told = likelihood and task == "next_passage"  # the others have no answers
    assert ("answers" in scores[0]["protocol"]) == told


def test_batches_hold_each_example_once_an_epoch(pretrained, toy_tasks, tokenizer):
    rows = [{"text": f"{'sea ' * (i % 7 + 1)}", "label": 0, "id": str(i)} for i in range(50)]
    task = TASKS["passage_source"]
    examples = encode(task.items(rows), tokenizer, task.format, first=280, longest=32)
    data = FinetuneData(examples, config_of(), start=0, stop=9)
    epochs = [[e.id for s in range(3 * k, 3 * k + 3) for e in data.chosen(s)] for k in range(3)]
    assert all(len(set(ids)) == 48 for ids in epochs) and epochs[0] != epochs[1]
    parts = data.step(5)
    assert sum(len(p.labels) for p in parts) == 16
    assert sum(p.share for p in parts) == pytest.approx(1)


def test_training_rows_can_be_bounded_by_their_tokens(pretrained, toy_tasks, tmp_path):
    config = config_of(epochs=1, max_train_tokens=1200, max_val_examples=4)
    counts = finetune(pretrained, toy_tasks, tmp_path, config, task="next_passage")
    facts = json.loads((tmp_path / "training.json").read_text())
    assert (
        0 < counts["train_examples"] == facts["counts"]["train_examples"] < 30
    )  # ~60 tokens a row


def test_what_is_taken_from_the_checkpoint(pretrained):
    task, old = TASKS["passage_source"], load(pretrained)

    def taken(**changes):
        new = build(pretrained, task, config_of(**changes)).decoder
        same = {
            name
            for name, value in old.state_dict().items()
            if torch.equal(value, new.state_dict()[name][: len(value)])
        }
        return {name for name in same if name.endswith(("wte.weight", "c_attn.weight"))}

    blocks = {"h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"}
    assert taken() == {"wte.weight", *blocks}
    assert taken(transfer_layers=1) == {"wte.weight", "h.0.attn.c_attn.weight"}
    assert taken(transfer_layers=0) == {"wte.weight"}
    assert taken(transfer_layers=2) == taken()
    assert taken(use="features") == taken(use="initialise") == taken()
    assert taken(use="scratch") == set()
    with pytest.raises(ValueError, match="transfer_layers 3"):
        taken(transfer_layers=3)


@pytest.mark.parametrize(
    ("use", "decoder_learns", "lm"),
    [
        ("features", False, False),
        ("initialise", True, False),
        ("auxiliary", True, True),
        ("scratch", True, True),
    ],
)
def test_what_each_use_of_a_checkpoint_trains(use, decoder_learns, lm, pretrained, tokenizer):
    task, config = TASKS["passage_source"], config_of(use=use, dropout=0.0, clf_dropout=0.0)
    model = build(pretrained, task, config)
    rows = [{"text": "the sea", "label": 1}, {"text": "the old blue sea", "label": 2}]
    examples = encode(task.items(rows), tokenizer, task.format, first=280, longest=32)
    (batch,) = micro_batches(examples, 1000)
    loss = FinetuneModule(model, config, examples, total=1).micro_loss(batch)
    loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"head.weight", "head.bias"} <= with_gradient
    assert ("decoder.h.0.mlp.c_fc.weight" in with_gradient) == decoder_learns
    assert len(with_gradient) == (len(list(model.parameters())) if decoder_learns else 2)
    wanted = loss_by_hand(model, examples, 0.5 if lm else 0.0)
    torch.testing.assert_close(loss, wanted)


def test_the_best_epoch_is_kept(pretrained, toy_tasks, tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.9, 0.2])
    real = FinetuneModule.predict

    def scripted(self, examples):
        given = real(self, examples)
        if examples is not self.val:
            return given
        right = round(next(accuracies, 0.0) * len(examples))
        return [
            np.eye(8)[e.label if i < right else (e.label + 1) % 8] for i, e in enumerate(examples)
        ]

    monkeypatch.setattr(FinetuneModule, "predict", scripted)
    kept = {}
    validate = FinetuneModule.validate

    def watching(self):
        result = validate(self)
        kept[self.done] = {k: v.clone() for k, v in self.model.state_dict().items()}
        return result

    monkeypatch.setattr(FinetuneModule, "validate", watching)
    finetune(pretrained, toy_tasks, tmp_path, config_of(epochs=4), task="passage_source")
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["best"]["step"] == 12  # the first of the two best epochs
    tuned = load_task_model(tmp_path).state_dict()
    assert all(torch.equal(value, tuned[name]) for name, value in kept[12].items())


def test_mistakes_are_named(pretrained, toy_tasks, tmp_path):
    def run(task):
        return finetune(pretrained, tmp_path, tmp_path / "out", config_of(), task=task)

    with pytest.raises(ValueError, match="no task 'nothing'"):
        run("nothing")
    with pytest.raises(ValueError, match="lambada_like is a cloze task"):
        run("lambada_like")
    with pytest.raises(FileNotFoundError, match="passage_source"):
        run("passage_source")
    for split in ("train", "val", "test"):
        rows = [{"text": "x", "label": "apache_docs"}, {"text": "x", "label": "linux"}]
        write_jsonl(tmp_path / f"finetune/passage_source/{split}.jsonl", rows)
    with pytest.raises(ValueError, match=r"train\.jsonl, row 2: column 'label' is 'linux'.*apache"):
        run("passage_source")
