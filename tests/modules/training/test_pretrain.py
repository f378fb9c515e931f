"""Pre-training in this process: it learns, skips bad steps, validates on fixed windows."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from modules.corpus.token_file import read_split
from modules.files import read_jsonl
from modules.model.base import Decoder
from modules.model.checkpoint import load
from modules.training import state
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.pretrain import PretrainData, PretrainModule, pretrain
from modules.training.windows import Stream, held_out


def config_of(tiny, **changes) -> PretrainConfig:
    return PretrainConfig(
        **{
            "model": tiny,
            "optim": OptimConfig(lr=1e-2, warmup_steps=2),
            "batch_size": 8,
            "max_steps": 30,
            "val_every": 10,
            "val_windows": 6,
            "threads": 1,
            "precision": "32-true",
            "accelerator": "cpu",
            **changes,
        }
    )


def paths(corpus):
    return Path(corpus["tokens"]), Path(corpus["tokenizer"])


def test_it_learns_and_writes_the_contract(corpus, tiny, tmp_path):
    events = []
    config = config_of(tiny, snapshots=(10,))
    counts = pretrain(*paths(corpus), tmp_path, config, emit=events.append)
    assert counts == {"steps": 30, "tokens": 30 * 8 * 32, "parameters": tiny.n_params}
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    whole = {
        "config.json",
        "curve.jsonl",
        "model.safetensors",
        "tokenizer/encoder.json",
        "tokenizer/vocab.bpe",
        "training.json",
    }
    assert names == whole | {f"snapshots/00000010/{name}" for name in whole}
    facts = json.loads((tmp_path / "training.json").read_text())
    curve = list(read_jsonl(tmp_path / "curve.jsonl"))
    assert [row["step"] for row in curve] == [10, 20, 30]
    losses = [row["val_loss"] for row in curve]
    assert losses[0] > losses[-1] and facts["val_loss"] == losses[-1] < 4.5  # ln 280 = 5.63
    assert facts["exact"] and facts["skipped_steps"] == []
    assert events[0]["step"] == 1 and events[-1]["step"] == 30 and events[-1]["grad_norm"] > 0

    # the stored loss is the loss of the stored model on the first of the windows
    model = load(tmp_path)
    windows = held_out(read_split(Path(corpus["tokens"]), "val"), 32, 6)
    with torch.no_grad():
        again = model.lm_loss(windows[:, :-1], windows[:, 1:])
    assert float(again) == pytest.approx(facts["val_loss"], rel=1e-5)
    assert not torch.equal(load(tmp_path / "snapshots/00000010").wte.weight, model.wte.weight)


def test_targets_are_the_tokens_one_further(corpus, tiny):
    tokens = read_split(Path(corpus["tokens"]), "train")
    config = config_of(tiny, accumulate=3)
    data = PretrainData(Stream(tokens, 32, config.seed), config, start=0, stop=30)
    batches = data.step(4)
    assert [b.shape for b in batches] == [(8, 33)] * 3 and batches[0].dtype == torch.int64
    text = tokens.read(0, len(tokens)).tolist()
    row = batches[1][5].tolist()
    assert any(text[i : i + 33] == row for i in range(len(text)))


def test_gradient_accumulation_is_the_mean_over_micro_batches(corpus, tiny, tmp_path):
    still = tiny.but(embd_dropout=0, attn_dropout=0, resid_dropout=0)
    for name, sizes in {"a": (8, 1), "b": (2, 4)}.items():
        size, accumulate = sizes
        config = config_of(still, batch_size=size, accumulate=accumulate, max_steps=5)
        (tmp_path / name).mkdir()
        pretrain(*paths(corpus), tmp_path / name, config)
    a, b = load(tmp_path / "a").state_dict(), load(tmp_path / "b").state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_steps_are_not_applied(bad, corpus, tiny, tmp_path, monkeypatch):
    real, calls = Decoder.lm_loss, []

    def sometimes(self, tokens, targets, share=1.0):
        loss = real(self, tokens, targets)
        if self.training:
            calls.append(1)
        return loss * bad if self.training and len(calls) in (3, 4, 7) else loss

    monkeypatch.setattr(Decoder, "lm_loss", sometimes)
    monkeypatch.setattr(PretrainModule, "plain_loss", False)  # kernels take no scaled loss
    events = []
    pretrain(*paths(corpus), tmp_path, config_of(tiny, max_steps=10), emit=events.append)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["skipped_steps"] == [3, 4, 7] and events[-1]["skipped"] == 3
    assert all(torch.isfinite(p).all() for p in load(tmp_path).parameters())


def test_too_many_bad_steps_in_a_row_stop_the_run(corpus, tiny, tmp_path, monkeypatch):
    real = Decoder.lm_loss
    calls = []

    def after_six(self, tokens, targets, share=1.0):
        calls.append(1)
        return real(self, tokens, targets) * (float("nan") if len(calls) > 6 else 1)

    monkeypatch.setattr(Decoder, "lm_loss", after_six)
    monkeypatch.setattr(PretrainModule, "plain_loss", False)  # kernels take no scaled loss
    config = config_of(tiny, checkpoint_every=4, max_bad_steps=3, val_every=0)
    with pytest.raises(FloatingPointError, match="at step 9: not finite 3 steps in a row"):
        pretrain(*paths(corpus), tmp_path, config)
    kept = state.load_newest(tmp_path / "state")  # 8: before the third bad step
    assert kept.values["skipped"] in ([], [7, 8])
    assert all(torch.isfinite(t).all() for t in kept.tensors["weights"].values())


def test_a_damaged_state_costs_steps_not_the_result(corpus, tiny, tmp_path, digests, caplog):
    config = config_of(tiny, checkpoint_every=5)
    pretrain(*paths(corpus), tmp_path / "whole", config)
    steps = iter(range(100))
    stopped = pretrain(*paths(corpus), tmp_path / "cut", config, stopping=lambda: next(steps) >= 16)
    assert stopped is None
    newest = max((tmp_path / "cut/state").glob("step-*"))
    weights = newest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    pretrain(*paths(corpus), tmp_path / "cut", config)
    assert f"{newest.name}: weights.safetensors is damaged" in caplog.text
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_resuming_under_other_versions_is_not_called_exact(corpus, tiny, tmp_path, monkeypatch):
    config = config_of(tiny)
    pretrain(*paths(corpus), tmp_path, config, stopping=lambda: True)
    monkeypatch.setattr("modules.training.step.version", lambda name: "0.0")
    pretrain(*paths(corpus), tmp_path, config)
    assert json.loads((tmp_path / "training.json").read_text())["exact"] is False


def test_mistakes_are_named(corpus, tiny, tmp_path, pretrained):
    with pytest.raises(ValueError, match="give max_steps or epochs"):
        config_of(tiny, max_steps=None)
    with pytest.raises(ValueError, match="context 64 is more than the model has: 32"):
        config_of(tiny, context=64)
    with pytest.raises(ValueError, match=r"model\.vocab_size is 100: set it to 280"):
        pretrain(*paths(corpus), tmp_path, config_of(tiny.but(vocab_size=100)))
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        pretrain(tmp_path, Path(corpus["tokenizer"]), tmp_path, config_of(tiny))


def test_epochs_count_windows(tiny):
    config = config_of(tiny, max_steps=None, epochs=2, batch_size=4, accumulate=2)
    assert config.total_steps(100) == 25


def test_a_run_with_every_knob_counts_its_tokens_and_resumes_to_the_same_bits(
    corpus, tiny, tmp_path, digests
):
    config = config_of(
        tiny,
        optim=OptimConfig(optimizer="muon", lr=0.01, schedule="wsd", base_width=8, warmup_steps=2),
        batch_size=4,
        accumulate=3,
        batch_ramp=((5, 1), (9, 2)),
        context_ramp=((7, 8), (11, 16)),
        max_steps=15,
        checkpoint_every=4,
    )
    counts = pretrain(*paths(corpus), tmp_path / "whole", config)
    assert counts["tokens"] == (5 * 1 + 4 * 2 + 6 * 3) * 4 * 32
    curve = list(read_jsonl(tmp_path / "whole/curve.jsonl"))
    assert curve[0]["tokens"] == (5 + 4 * 2 + 3) * 4 * 32 and curve[0]["val_loss"] < 5.6
    for more in (5, 4):  # steps before it is asked to stop
        stopping = partial(next, iter([False] * more), True)
        assert pretrain(*paths(corpus), tmp_path / "cut", config, stopping=stopping) is None
    pretrain(*paths(corpus), tmp_path / "cut", config)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_several_corpora_are_mixed_and_judged_each(corpus, tiny, tmp_path, digests):
    tokens, tokenizer = paths(corpus)
    config = config_of(tiny, mixture={"b": 3, "a": 1}, sampling="documents", val_every=10)
    both = {"b": tokens, "a": tokens}
    counts = pretrain(both, tokenizer, tmp_path / "whole", config)
    facts = json.loads((tmp_path / "whole/training.json").read_text())
    assert counts["tokens"] == 30 * 8 * 32 and facts["val_loss"] < 4.7
    last = list(read_jsonl(tmp_path / "whole/curve.jsonl"))[-1]
    assert last["val_loss/a"] == last["val_loss/b"] == pytest.approx(last["val_loss"])
    assert set(facts["held_out_losses"]) == {"a", "b"}
    assert facts["epochs"]["b"] == pytest.approx(3 * facts["epochs"]["a"], rel=1e-3)
    stopping = partial(next, iter([False] * 17), True)
    order = dict(sorted(both.items()))  # another order of the same
    assert pretrain(order, tokenizer, tmp_path / "cut", config, stopping=stopping) is None
    pretrain(both, tokenizer, tmp_path / "cut", config.but(workers=2))
    for name in ("model.safetensors", "curve.jsonl"):
        assert digests(tmp_path / "cut")[name] == digests(tmp_path / "whole")[name]
    with pytest.raises(
        ValueError, match=r"mixture weighs \['a', 'b'\], the tokens are \['tokens'\]"
    ):
        pretrain(tokens, tokenizer, tmp_path, config)


def test_a_finished_run_is_not_run_again_unless_damaged(corpus, tiny, tmp_path, digests, caplog):
    config, events = config_of(tiny, max_steps=4), []
    counts = pretrain(*paths(corpus), tmp_path, config)
    wanted = digests(tmp_path)
    (tmp_path / "state").mkdir()  # killed before the last of it was gone
    assert pretrain(*paths(corpus), tmp_path, config, emit=events.append) == counts
    assert [e["step"] for e in events] == [4] and digests(tmp_path) == wanted
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert pretrain(*paths(corpus), tmp_path, config) == counts
    assert "model.safetensors is damaged" in caplog.text and digests(tmp_path) == wanted


def test_replayed_steps_change_nothing_and_find_a_wrong_bit(
    corpus, tiny, tmp_path, digests, monkeypatch
):
    for name, every in {"plain": 0, "replayed": 1}.items():
        config = config_of(tiny, max_steps=6, accumulate=2, replay_every=every)
        pretrain(*paths(corpus), tmp_path / name, config)
    weights = [digests(tmp_path / name)["model.safetensors"] for name in ("plain", "replayed")]
    assert weights[0] == weights[1]

    real, calls = Decoder.lm_loss, []

    def wrong_once(self, *args, **kwargs):
        calls.append(1)
        loss = real(self, *args, **kwargs)
        return loss * (1 + 1e-6) if len(calls) == 6 else loss  # step 5; 1 is replayed too

    monkeypatch.setattr(Decoder, "lm_loss", wrong_once)
    monkeypatch.setattr(PretrainModule, "plain_loss", False)  # kernels take no scaled loss
    config = config_of(tiny, max_steps=9, checkpoint_every=2, val_every=0, replay_every=4)
    with pytest.raises(RuntimeError, match=r"step 5 computed twice .* gradient of .* at index \["):
        pretrain(*paths(corpus), tmp_path / "wrong", config)
    assert state.load_newest(tmp_path / "wrong/state").values["step"] == 4


def test_the_best_validated_checkpoint_stays(corpus, tiny, tmp_path, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 4.5, 4.6, 4.7, 4.8])
    monkeypatch.setattr(PretrainModule, "validate", lambda self: {"val_loss": next(losses)})
    monkeypatch.setattr("modules.training.loop._remove", lambda folder: None)
    config = config_of(tiny, max_steps=12, val_every=2, checkpoint_every=2, keep_checkpoints=2)
    pretrain(*paths(corpus), tmp_path, config)
    kept = [int(path.name[5:]) for path in sorted((tmp_path / "state").iterdir())]
    assert kept == [4, 10, 12]
    newest = state.load_newest(tmp_path / "state")
    assert newest.values["best"] == {"step": 4, "val_loss": 3.0}
