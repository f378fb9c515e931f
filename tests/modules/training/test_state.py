"""Training-state checkpoints: every changed bit is found, an older one is used, none is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.training import state
from modules.training.state import DamagedState, State


def make(step: int) -> State:
    generator = torch.Generator().manual_seed(step)
    weights = {"a": torch.randn(7, 5, generator=generator), "b": torch.full((3,), float(step))}
    return State({"weights": weights, "rng": {"torch": torch.get_rng_state()}}, {"step": step})


def same(a: State, b: State) -> bool:
    return a.values == b.values and all(
        torch.equal(a.tensors[group][name], b.tensors[group][name])
        for group in a.tensors
        for name in a.tensors[group]
    )


def test_the_newest_comes_back_and_three_are_kept(tmp_path):
    states = {step: make(step) for step in (5, 10, 15, 100, 1000)}
    for step, value in states.items():
        state.save(tmp_path, step, value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000015",
        "step-00000100",
        "step-00001000",
    ]
    assert same(state.load_newest(tmp_path), states[1000])
    assert state.load_newest(tmp_path / "nowhere") is None


def test_a_missing_file_is_found(tmp_path):
    path = state.save(tmp_path, 1, make(1))
    (path / "weights.safetensors").unlink()
    with pytest.raises(DamagedState, match="has files"):
        state.load(path)


def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path):
    value = make(1)
    value.tensors["weights"]["b"][1] = float("-inf")
    with pytest.raises(FloatingPointError, match="step 1, weights: b is not finite"):
        state.save(tmp_path, 1, value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_one_is_named_kept_aside_and_the_older_one_used(tmp_path, caplog):
    first = make(1)
    state.save(tmp_path, 1, first)
    newest = state.save(tmp_path, 2, make(2))
    (newest / "weights.safetensors").write_bytes(b"x" * 100)
    assert same(state.load_newest(tmp_path), first)
    assert "step-00000002: weights.safetensors is damaged" in caplog.text
    assert (tmp_path / "step-00000002.corrupt").is_dir()
    state.save(tmp_path, 2, make(2))  # the resumed run comes by again
    assert state.load_newest(tmp_path).values == {"step": 2}


KILLED = """
import os, sys, torch
from pathlib import Path
from modules.training import state
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
def counting(real):
    def call(*a, **k):
        global calls
        calls += 1
        if calls > stop:
            os._exit(9)
        return real(*a, **k)
    return call
for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "write_text"), (Path, "mkdir"),
                    (state.shutil, "rmtree"), (state.safetensors.torch, "save_file")):
    setattr(owner, name, counting(getattr(owner, name)))
for step in (2, 3):
    value = state.State({"weights": {"a": torch.full((3,), float(step))}}, {"step": step})
    state.save(folder, step, value, keep=1)
print(calls)
"""


def test_ended_between_any_two_calls_of_a_save(tmp_path):
    """Stop at every write, fsync, rename and removal: always one whole checkpoint to go on from."""
    server = f"""
import os, sys
sys.path.insert(0, {str(Path.cwd())!r})
import torch
from modules.training import state
code = compile({KILLED!r}, "killed", "exec")
for stop in range(60):
    folder = {str(tmp_path)!r} + f"/{{stop}}"
    os.mkdir(folder)
    first = state.State({{"weights": {{"a": torch.ones(3)}}}}, {{"step": 1}})
    state.save(state.Path(folder), 1, first)
    pid = os.fork()
    if pid == 0:
        sys.argv = ["killed", folder, str(stop)]
        exec(code, {{}})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", server], capture_output=True, text=True)
    codes = [line for line in done.stdout.split() if line in ("0", "9")]
    assert codes.count("9") > 20 and codes[-1] == "0", done.stderr
    steps = set()
    for stop in range(60):
        found = state.load_newest(tmp_path / str(stop))
        assert found is not None, stop
        assert torch.equal(found.tensors["weights"]["a"], torch.full((3,), found.values["step"]))
        steps.add(found.values["step"])
        state.save(tmp_path / str(stop), 4, found, keep=1)
        left = [p.name for p in (tmp_path / str(stop)).iterdir()]
        assert left == ["step-00000004"], (stop, left)
    assert steps == {1, 2, 3}
