"""Checkpoints come back as they were saved, and nothing else comes back at all."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.model.checkpoint import build, load, load_task_model, read_header, save
from modules.model.gpt import GPT, GPTConfig
from modules.model.heads import HeadConfig, TaskModel
from modules.model.lstm import LSTMConfig

torch.set_num_threads(1)

CONFIGS = [
    GPTConfig(vocab_size=31, n_positions=8, n_embd=8, n_layer=2, n_head=2),
    GPTConfig(vocab_size=31, n_positions=8, n_embd=8, n_layer=1, n_head=1, norm="post"),
    LSTMConfig(vocab_size=31, n_positions=8, n_embd=8, n_units=12),
    LSTMConfig(vocab_size=31, n_positions=8, n_embd=8, n_units=12, tied=False),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.architecture}-{c.n_params}")
def test_a_model_comes_back_as_it_was(config, tmp_path):
    model = build(config)
    save(model, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    back = load(tmp_path)
    assert back.config == config and not back.training
    for (a, x), (b, y) in zip(model.state_dict().items(), back.state_dict().items(), strict=True):
        assert a == b and torch.equal(x, y)
    assert all(p.requires_grad and not p.is_meta for p in back.parameters())
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save(back, tmp_path)
    assert first == {p.name: p.read_bytes() for p in tmp_path.iterdir()}  # equal to the byte


def test_a_model_is_built_from_the_json_of_its_config():
    assert build(CONFIGS[0].model_dump(mode="json")).config == CONFIGS[0]
    with pytest.raises(ValueError, match="architecture 'mamba'"):
        build({"architecture": "mamba"})


def test_loading_draws_no_random_numbers(tmp_path):
    save(build(CONFIGS[0]), tmp_path)
    before = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(format="similarity", n_classes=6),
        HeadConfig(format="multiple_choice", likelihood=True),
    ],
    ids=lambda head: head.format,
)
def test_a_tuned_model_comes_back_with_its_head_or_without(tmp_path, head):
    decoder = GPT(CONFIGS[1])
    decoder.resize(3)
    model = TaskModel(decoder, head)
    save(model, tmp_path)
    names = set(read_header(tmp_path / "model.safetensors"))
    assert {"head.weight", "head.bias", "wte.weight"} < names
    assert ("head.nats" in names) == head.likelihood
    back = load_task_model(tmp_path)
    assert back.config == model.config and back.decoder.config.vocab_size == 34
    assert all(
        torch.equal(x, y)
        for x, y in zip(model.state_dict().values(), back.state_dict().values(), strict=True)
    )
    assert torch.equal(load(tmp_path).wte.weight, decoder.wte.weight)


def test_a_pretrained_checkpoint_has_no_head(tmp_path):
    save(GPT(CONFIGS[0]), tmp_path)
    with pytest.raises(ValueError, match="not fine-tuned"):
        load_task_model(tmp_path)


def test_files_have_the_usual_mode(tmp_path):
    """safetensors makes its files private; others of the group must read an artifact."""
    save(GPT(CONFIGS[0]), tmp_path)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ts: {n: t for n, t in ts.items() if n != "ln_f.bias"}, r"missing: ln_f\.bias"),
        (lambda ts: ts | {"extra": torch.ones(1)}, "unexpected: extra"),
        (lambda ts: ts | {"head.weight": torch.ones(1)}, r"unexpected: head\.weight"),
        (lambda ts: ts | {"wpe.weight": torch.ones(8, 9)}, r"wpe\.weight is \[8, 9\]"),
        (lambda ts: ts | {"ln_f.bias": torch.ones(8).int()}, r"ln_f\.bias is of type I32"),
        (lambda ts: ts | {"ln_f.bias": torch.ones(8).bool()}, r"ln_f\.bias is of type BOOL"),
    ],
)
def test_wrong_tensors_are_refused_by_name(tmp_path, change, message):
    save(GPT(CONFIGS[0]), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(GPT(CONFIGS[0]), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_cut_off_and_missing_files_are_named(tmp_path):
    save(GPT(CONFIGS[0]), tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    for keep in (0, 7, 50, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match=r"model\.safetensors is not a"):
            load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ("{}", "architecture None"),
        (json.dumps(CONFIGS[0].model_dump() | {"n_head": 3}), "not a multiple of n_head 3"),
        (json.dumps(CONFIGS[0].model_dump() | {"n_heads": 3}), "n_heads: Extra inputs"),
        (json.dumps(CONFIGS[0].model_dump() | {"n_layer": 3}), r"missing: h\.2\..* and 7 more"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(tmp_path, text, message):
    save(GPT(CONFIGS[0]), tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
