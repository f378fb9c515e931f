"""Uses of a checkpoint, adapters, selection and early stopping: what they train; kill, resume."""

import json
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modules import tokenizer as bpe
from modules.files import read_jsonl
from modules.model import checkpoint
from modules.model.heads import TaskModel
from modules.tasks import TASKS
from modules.training import lora, objective
from modules.training.build import build
from modules.training.config import OptimConfig
from modules.training.finetune import FinetuneModule, finetune
from modules.training.predictor import load_tuned
from modules.training.selection import also_at, since_best
from modules.training.transform import Encoded, collate, encode, fit
from modules.training.tuning_config import FinetuneConfig, LoraConfig

TASK = TASKS["passage_source"]
LORA = LoraConfig(rank=2, dropout=0.1, targets=("c_attn", "c_proj", "c_fc"))


def config_of(**changes) -> FinetuneConfig:
    plain = {
        "optim": OptimConfig(lr=1e-2, warmup_fraction=0.1, schedule="linear"),
        "batch_size": 16,
        "threads": 1,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    return FinetuneConfig(**{**plain, **changes})


def examples_of(start: Path, n: int) -> list[Encoded]:
    rows = [{"text": "the sea " * (i % 3 + 1) + "wood", "label": i % 2} for i in range(n)]
    tokenizer = bpe.load(start / "tokenizer")
    return encode(TASK.items(rows), tokenizer, TASK.format, first=280, longest=32)


@pytest.mark.parametrize("kernels", [False, True])
def test_adapters_learn_and_merge(kernels, pretrained):
    torch.manual_seed(0)
    plain = build(pretrained, TASK, config_of(dropout=0.0, clf_dropout=0.0)).eval()
    config = config_of(dropout=0.0, clf_dropout=0.0, lora=LORA.but(dropout=0.0))
    model = build(pretrained, TASK, config)
    batch = collate(examples_of(pretrained, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kernels):
        before = model(batch.tokens, batch.extract)
        torch.testing.assert_close(  # lora_B starts at 0
            before.float(), plain(batch.tokens, batch.extract).float(), rtol=0, atol=2e-2
        )
        objective.loss(model, config, batch, step=0).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len([n for n in trained if "lora_" in n]) == 2 * 4 * 2  # blocks, maps, A and B
    assert trained - {n for n in trained if "lora_" in n} == {"head.weight", "head.bias"}
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (name in trained)
        if "lora_B" in name:
            assert p.grad.abs().max() > 0, name
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)  # bfloat16 rounds what it does to a hundredth
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kernels):
        adapted = model(batch.tokens, batch.extract)
        assert (adapted - before).abs().max() > 0.01
        lora.merge(model.decoder)
        merged = model(batch.tokens, batch.extract)
    tolerance = 2e-2 if kernels else 1e-5
    torch.testing.assert_close(merged, adapted, rtol=tolerance, atol=tolerance)
    assert model.decoder.state_dict().keys() == plain.decoder.state_dict().keys()


def test_tuned_adapters_are_asked_without_peft(pretrained, toy_tasks, tmp_path, monkeypatch):
    config = config_of(lora=LORA, epochs=2)
    finetune(pretrained, toy_tasks, tmp_path, config, task="passage_source")
    monkeypatch.setitem(sys.modules, "peft", None)
    rows = list(read_jsonl(toy_tasks / "finetune/passage_source/test.jsonl"))
    given = load_tuned(tmp_path).predict([{"text": row["text"]} for row in rows])
    wanted = list(read_jsonl(tmp_path / "predictions.jsonl.zst"))
    for a, b in zip(given, wanted, strict=True):
        assert a["index"] == b["prediction"]
        np.testing.assert_allclose(a["probabilities"], b["probabilities"], atol=2e-6)
    old, new = checkpoint.load(pretrained), checkpoint.load(tmp_path)
    assert torch.equal(old.wte.weight, new.wte.weight[:280])  # frozen
    assert not torch.equal(old.h[0].attn.c_attn.weight, new.h[0].attn.c_attn.weight)
    with pytest.raises(ValueError, match=r"lora needs peft: pip install 'textmill\[lora\]'"):
        build(pretrained, TASK, config)


def test_frozen_states_are_read_once(pretrained, toy_tasks, tmp_path, monkeypatch):
    read = []
    real = TaskModel.pack

    def counting(self, tokens, extract):
        assert not torch.is_grad_enabled()
        read.append(extract.numel())  # sequences
        return real(self, tokens, extract)

    monkeypatch.setattr(TaskModel, "pack", counting)
    config = config_of(use="features", epochs=5)
    counts = finetune(pretrained, toy_tasks, tmp_path, config, task="passage_source")
    assert counts["steps"] == 30
    assert sum(read) == 96 + 5 * 24 + 40 + 24  # training rows once, validation, test, validation
    old, new = checkpoint.load(pretrained).state_dict(), checkpoint.load(tmp_path).state_dict()
    assert all(torch.equal(t, new[name][: len(t)]) for name, t in old.items())
    losses = [row["loss"] for row in read_jsonl(tmp_path / "curve.jsonl")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_answers_share_their_beginning_unless_adapters_drop(dropout, pretrained):
    config = config_of(dropout=0.0, lora=LORA.but(dropout=dropout))
    model = build(pretrained, TASKS["next_passage"], config)
    sequence = (280, *range(1, 30), 282)
    batch = collate([Encoded("x", (sequence, sequence), 0, False)])
    shared = len(model.pack(batch.tokens, batch.extract).tokens) < 2 * len(sequence)
    assert shared == (dropout == 0)


@pytest.mark.parametrize("task", ["passage_source", "next_passage"])
def test_loss_from_states_is_the_loss_from_tokens(task, pretrained):
    model = build(pretrained, TASKS[task], config_of(use="features", clf_dropout=0.0))
    some = examples_of(pretrained, 6)
    if task == "next_passage":  # two, three and one answers
        some = [Encoded(str(n), (some[n].sequences[0],) * n, 0, False) for n in (2, 3, 1)]
    states = objective.read_states(model, some, limit=100)
    got = objective.feature_loss(model, objective.feature_batch(some, states))
    batch = collate(some)
    model.decoder.eval()
    wanted, *_ = model.losses(batch.tokens, batch.extract, batch.labels, lm_weight=0)
    torch.testing.assert_close(got, wanted)


def scripted(monkeypatch, right: list[float]):
    """Let the n-th validation have so much right; its loss falls all the time."""
    left, real = iter(enumerate(right)), FinetuneModule.predict

    def predict(self, examples):
        if examples is not self.val:
            return real(self, examples)
        number, share = next(left)
        n, sure = round(share * len(examples)), 0.6 + number / 100
        rows = np.full((len(examples), 8), (1 - sure) / 7)
        for i, e in enumerate(examples):
            rows[i, e.label if i < n else (e.label + 1) % 8] = sure
        return list(rows)

    monkeypatch.setattr(FinetuneModule, "predict", predict)


@pytest.mark.parametrize(
    ("changes", "steps", "best"),
    [
        ({}, 36, 12),  # of six epochs of six steps; the first of two equals
        ({"select": "last"}, 36, 36),
        ({"patience": 2}, 24, 12),
        ({"patience": 2, "select": "last"}, 24, 24),
        ({"patience": 5}, 36, 12),
    ],
)
def test_which_weights_are_kept_and_when_it_ends(
    changes, steps, best, pretrained, toy_tasks, tmp_path, monkeypatch
):
    scripted(monkeypatch, [0.5, 0.75, 0.75, 0.25, 0.5, 0.5, 0.5])  # the last: what is written
    config = config_of(epochs=6, **changes)
    counts = finetune(pretrained, toy_tasks, tmp_path, config, task="passage_source")
    facts = json.loads((tmp_path / "training.json").read_text())
    assert (counts["steps"], facts["best"]["step"]) == (steps, best)
    assert facts["stopped_early"] == (steps < 36)


def test_lowest_loss_can_decide(pretrained, toy_tasks, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.9, 0.9, 0.2])
    config = config_of(epochs=4, select="loss", max_val_examples=10)
    finetune(pretrained, toy_tasks, tmp_path, config, task="passage_source")
    best = json.loads((tmp_path / "training.json").read_text())["best"]
    assert best["step"] == 18 and best["val_accuracy"] == 0.9  # surer than the second epoch


def test_the_headline_metric_decides(pretrained, toy_tasks, tmp_path):
    """verse_pairs has F1 or accuracy first; whatever it is, it is what selection sees."""
    config = config_of(epochs=1, max_train_examples=32)
    finetune(pretrained, toy_tasks, tmp_path, config, task="verse_pairs")
    best = json.loads((tmp_path / "training.json").read_text())["best"]
    assert f"val_{next(iter(TASKS['verse_pairs'].metrics))}" in best


def test_when_the_release_validates():
    assert also_at(500) == frozenset()
    assert also_at(5000) == {1000, 2000, 4000}  # train.py: of the first epoch
    assert since_best([]) == since_best([1.0]) == 0
    assert since_best([1.0, 3.0, 3.0, 2.0]) == 2


@pytest.mark.parametrize(
    ("a", "b", "kept"),
    [
        (300, 300, (31, 30)),  # both as long: half each
        (300, 5, (56, 5)),  # the short one whole, where the release would cut the long one to 30
        (5, 300, (5, 56)),
        (30, 31, (30, 31)),
        (40, 20, (40, 20)),
    ],
)
def test_the_longest_is_cut_first(a, b, kept):
    first, second = list(range(a)), list(range(1000, 1000 + b))
    got = fit([first, second], "entailment", 64, "longest_first")
    assert got == [first[: kept[0]], second[: kept[1]]]
    assert sum(map(len, got)) + 3 <= 64
    assert fit([first, second], "entailment", 64) == [first[:30], second[:30]]


def test_cut_rows_are_named(pretrained, toy_tasks, tmp_path):
    config = config_of(epochs=1, max_length=16, max_train_examples=16)
    finetune(pretrained, toy_tasks, tmp_path, config, task="question_in_sentence")
    facts = json.loads((tmp_path / "training.json").read_text())
    assert {split: len(names) for split, names in facts["cut_rows"].items()} == facts["cut"]
    assert facts["cut"]["train"] > 0 and facts["cut_rows"]["test"][0].startswith("test-")


VARIANTS = {
    "lora": {"lora": LORA.model_dump(mode="json")},
    "features": {"use": "features", "epochs": 4},
    "early": {"patience": 1, "epochs": 8, "select": "loss", "optim": {"lr": 0.3}},
    "matrix": {"embedding_dropout": "matrix", "lm_classes": "with_positions"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_variants_end_with_the_same_bytes(
    variant, forks, pretrained, toy_tasks, tmp_path, digests
):
    def job(name: str) -> dict:
        plain = {"optim": {"lr": 3e-3}, "epochs": 2, "batch_size": 16, "checkpoint_every": 2}
        machine = {"threads": 1, "precision": "32-true", "accelerator": "cpu", "log_every": 2}
        return {
            "kind": "finetune",
            "task": "passage_source",
            "config": {**plain, **machine, **VARIANTS[variant]},
            "inputs": {"checkpoint": str(pretrained), "data": str(toy_tasks)},
            "out": str(tmp_path / name),
            "events": str(tmp_path / f"{name}.events.jsonl"),
        }

    assert forks.run(job("whole"))["code"] == 0
    facts = json.loads((tmp_path / "whole/training.json").read_text())
    assert facts["stopped_early"] == (variant == "early")
    say, steps = random.Random(4), facts["steps"]
    for _ in range(1 if variant == "lora" else 3):  # peft takes seconds to import
        forks.run(job("killed"), signal=signal.SIGKILL, at=say.randrange(1, steps))
    assert forks.run(job("killed"))["code"] == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
