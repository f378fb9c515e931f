"""Many processes train what one would: the same losses, tokens, checkpoints; DDP and FSDP."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from modules.model import checkpoint
from modules.model.config import LSTMConfig
from modules.training.config import PretrainConfig
from modules.training.events import read_events
from modules.training.fit import INTERRUPTED, Result, launch
from modules.training.ranks import recompute
from modules.training.tuning_config import FinetuneConfig
from tests.trainings import trainings

STEPS, CLIP = 6, 0.1


class Ranks:
    """Asks the rank server for training runs of several processes."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("rank_server.py")
        command = [sys.executable, str(script)]
        root = Path(__file__).resolve().parents[3]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root)

    def run(self, job: dict[str, Any], **more: Any) -> list[int]:
        """Run a job on its config's devices; return the exit codes."""
        path = Path(job["events"]).with_suffix(".job.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job))
        request = {"path": str(path), "ranks": job["config"].get("devices", 1), **more}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """The rank server, started once."""
    server = Ranks()
    yield server
    server.process.stdin.close()
    server.process.wait(60)


def job(corpus, model, out: Path, **changes):
    config = {
        "model": model.model_dump(),
        "optim": {"lr": 1e-2, "warmup_steps": 2, "grad_clip": CLIP},
        "batch_size": 4,
        "accumulate": 2,
        "max_steps": STEPS,
        "val_every": 3,
        "val_windows": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "threads": 1,
        "precision": "64-true",
        "accelerator": "cpu",
        **changes,
    }
    events = str(out.with_suffix(".events.jsonl"))
    kind = {"kind": "pretrain", "config": config, "inputs": corpus}
    return {**kind, "out": str(out), "events": events}


def still(model, **changes):
    """The model without dropout, whose masks depend on the rank."""
    return model.but(embd_dropout=0, attn_dropout=0, resid_dropout=0, **changes)


def curve(out: Path) -> np.ndarray:
    """Loss and validation loss by step."""
    rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    return np.array([[row["loss"], row.get("val_loss", 0.0)] for row in rows])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module", params=["pre", "post"])
def alone(request, ranks, corpus, tiny, tmp_path_factory) -> Path:
    """A run in one process, GPT-2's decoder and GPT-1's, all gradients clipped."""
    out = tmp_path_factory.mktemp("alone") / request.param
    assert ranks.run(job(corpus, still(tiny, norm=request.param), out)) == [0]
    norms = [event["grad_norm"] for event in read_events(out.with_suffix(".events.jsonl"))]
    assert min(norms) > CLIP
    return out


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_lose_what_one_process_does(n, alone, ranks, corpus, tiny, tmp_path):
    model = still(tiny, norm=alone.name)
    for strategy in ("ddp", "fsdp"):
        out = tmp_path / strategy
        assert ranks.run(job(corpus, model, out, devices=n, strategy=strategy)) == [0] * n
        np.testing.assert_allclose(curve(out), curve(alone), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights(tmp_path / "ddp"), weights(alone), rtol=0, atol=1e-6)
    one, other = weights(tmp_path / "ddp"), weights(tmp_path / "fsdp")
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_ranks_weigh_rows_that_are_not_full(ranks, corpus, tiny, tmp_path):
    """Rows of whole documents: every scored token counts as much as in one process."""
    for n in (1, 4):
        changes = {"devices": n, "sampling": "documents"}
        assert not any(ranks.run(job(corpus, still(tiny), tmp_path / f"{n}", **changes)))
    np.testing.assert_allclose(curve(tmp_path / "4"), curve(tmp_path / "1"), rtol=0, atol=1e-12)


def test_muon_sees_whole_matrices(ranks, corpus, tiny, tmp_path):
    optim = {"lr": 1e-2, "optimizer": "muon"}
    for n in (1, 2):
        changes = {"optim": optim, "devices": n, "strategy": "fsdp"}
        assert not any(ranks.run(job(corpus, still(tiny), tmp_path / f"{n}", **changes)))
    np.testing.assert_allclose(curve(tmp_path / "2"), curve(tmp_path / "1"), rtol=0, atol=1e-9)


def test_no_row_is_read_twice_or_never_when_ranks_change(ranks, corpus, tiny, tmp_path):
    """One process, two under FSDP, four under DDP, one again: as if it had been one all along."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"max_steps": 8, "checkpoint_every": 100}
    assert ranks.run(job(corpus, still(tiny), whole, **changes), record=str(whole)) == [0]
    stages = [(1, "auto", 1), (2, "fsdp", 2), (4, "ddp", 3), (1, "auto", 9)]
    for n, strategy, steps in stages:
        stage = job(corpus, still(tiny), parts, devices=n, strategy=strategy, **changes)
        codes = ranks.run(stage, record=str(parts), stop={str(n - 1): steps})
        assert codes == [0 if steps == 9 else INTERRUPTED] * n
    assert rows_read(parts) == rows_read(whole)
    np.testing.assert_allclose(curve(parts), curve(whole), rtol=0, atol=1e-12)
    assert curve(whole)[-1, 0] < curve(whole)[0, 0] - 0.1
    facts = json.loads((parts / "training.json").read_text())
    assert facts["exact"] is False and facts["environment"]["ranks"] == "1"


def rows_read(folder: Path) -> list[list[Any]]:
    """All rows that were trained on: by micro-batch of the run, the ranks' parts in order."""
    parts: dict[int, list[Any]] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            number, rows = json.loads(line)
            parts.setdefault(number, []).extend(rows)
    return [parts[number] for number in sorted(parts)]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_stopped_ranks_end_with_the_same_bytes(strategy, ranks, corpus, tiny, tmp_path, digests):
    """With dropout; four ranks, so that the order of a sum over ranks would show."""
    changes = {"devices": 4, "strategy": strategy, "precision": "32-true", "snapshots": (5,)}
    for name in ("whole", "stopped"):
        if name == "stopped":
            stage = job(corpus, tiny, tmp_path / name, **changes)
            assert ranks.run(stage, stop={"2": 3}) == [INTERRUPTED] * 4
        assert ranks.run(job(corpus, tiny, tmp_path / name, **changes)) == [0] * 4
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert "snapshots/00000005/model.safetensors" in digests(tmp_path / "whole")


def test_ranks_that_die_after_the_last_step_leave_one_to_write(
    ranks, corpus, tiny, tmp_path, digests
):
    work = {n: job(corpus, tiny, tmp_path / n, devices=2) for n in ("whole", "killed")}
    assert ranks.run(work["whole"]) == [0, 0]
    for place in ("begin", "seal"):
        assert ranks.run(work["killed"], die={"0": place}) == [-signal.SIGKILL, 0]
    assert ranks.run(work["killed"]) == [0, 0]
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_ranks_that_found_different_checkpoints_are_refused(ranks, corpus, tiny, tmp_path):
    work = job(corpus, tiny, tmp_path / "out", devices=2)
    assert ranks.run(work, blind={"1": True}, stop={"0": 3}) == [INTERRUPTED] * 2
    assert ranks.run(work, blind={"1": True}) == [1, 1]
    status = json.loads(Path(work["events"]).with_suffix(".status.json").read_text())
    assert status["state"] == "failed" and "one folder that all machines share" in status["error"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_bad_loss_in_one_rank_is_skipped_by_all(strategy, ranks, corpus, tiny, tmp_path):
    bad = job(corpus, still(tiny), tmp_path / "out", devices=2, strategy=strategy)
    assert ranks.run(bad, spoil={"1": [3]}) == [0, 0]  # in rank 1: the first micro-batch of step 2
    facts = json.loads((tmp_path / "out/training.json").read_text())
    assert facts["skipped_steps"] == [2]
    assert all(t.isfinite().all() for t in weights(tmp_path / "out").values())


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
def test_lstm_is_sharded_too(ranks, corpus, tmp_path):
    model = LSTMConfig(vocab_size=280, n_positions=32, n_embd=16, n_units=24)
    for n in (1, 2):
        changes = {"devices": n, "strategy": "fsdp"}
        assert not any(ranks.run(job(corpus, still_lstm(model), tmp_path / f"{n}", **changes)))
    np.testing.assert_allclose(curve(tmp_path / "2"), curve(tmp_path / "1"), rtol=0, atol=1e-12)


def still_lstm(model):
    return model.but(embd_dropout=0, resid_dropout=0)


def test_fine_tuning_splits_the_batch_exactly(ranks, pretrained, toy_tasks, tmp_path):
    """Rows of all lengths: each counts as much as it does in one process."""
    config = {"epochs": 1, "batch_size": 8, "clf_dropout": 0, "dropout": 0, "log_every": 1}
    config |= {"tokens_per_micro_batch": 64, "optim": {"lr": 1e-2}, "accelerator": "cpu"}
    config |= {"threads": 1, "precision": "32-true", "max_train_examples": 40}
    inputs = {"checkpoint": str(pretrained), "data": str(toy_tasks)}
    for n in (1, 2):
        out = tmp_path / f"{n}"
        stage = {"kind": "finetune", "task": "passage_source", "inputs": inputs, "out": str(out)}
        stage |= {"config": {**config, "devices": n}, "events": f"{out}.events.jsonl"}
        assert not any(ranks.run(stage))
    np.testing.assert_allclose(curve(tmp_path / "2"), curve(tmp_path / "1"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_recomputing_gives_the_same_bits_with_dropout(norm, tiny):
    tokens = torch.arange(64).view(4, 16)
    results = []
    for again in (False, True):
        torch.manual_seed(0)
        model = checkpoint.build(tiny.but(norm=norm))
        if again:
            recompute(model)
        loss = model.lm_loss(tokens, tokens + 1)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_recomputing_takes_less_memory(tiny):
    held = []
    model = checkpoint.build(tiny.but(n_embd=64, n_layer=8, n_positions=256))
    tokens = torch.zeros(16, 256, dtype=torch.int64)
    for again in (False, True):
        if again:
            recompute(model)
        before = psutil.Process().memory_info().rss
        loss = model.lm_loss(tokens, tokens)  # holds what the backward pass needs
        held.append(psutil.Process().memory_info().rss - before)
        del loss
    assert held[1] < held[0] / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, "no multiple of devices x nodes"),
        ({"devices": 2, "nodes": 4}, "no multiple of devices x nodes"),
    ],
)
def test_batches_that_do_not_split_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(batch_size=4, max_steps=1, **changes)


def test_fine_tuning_refuses_fsdp():
    with pytest.raises(ValueError, match="fine-tune with ddp"):
        FinetuneConfig(strategy="fsdp")


class KillOnce:
    """Kills a rank of the run that this process has launched, at the first event."""

    def __init__(self, rank: int) -> None:
        self.rank, self.step = str(rank), 0

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of the run."""
        if not self.step:
            children = psutil.Process().children(recursive=True)
            (victim,) = (p for p in children if p.environ().get("RANK") == self.rank)
            victim.kill()
            self.step = event["step"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
@pytest.mark.parametrize(("victim", "strategy"), [(0, "ddp"), (1, "ddp"), (1, "fsdp")])
def test_a_killed_rank_comes_back(victim, strategy, corpus, tiny, tmp_path, digests):
    """About a minute: the agent starts both ranks again, which go on from the last checkpoint."""
    changes = {"devices": 2, "strategy": strategy, "precision": "32-true", "max_steps": 100}
    kill = KillOnce(victim)
    for name, on_event in (("whole", lambda event: None), ("killed", kill)):
        work = job(corpus, tiny, tmp_path / name, **changes)
        result = launch(work, on_event=on_event)
        assert result == Result("completed", 100), result.error
    assert 0 < kill.step < 100
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    events = read_events(Path(work["events"]))
    assert {event["attempt"] for event in events} == {1, 2} and events[-1]["step"] == 100
    status = json.loads(Path(work["events"]).with_suffix(".status.json").read_text())
    assert status == {"state": "completed", "step": 100, "error": ""}


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
def test_a_rank_that_dies_too_often_is_given_up(corpus, tiny, tmp_path):
    """About 20 s; the message names the rank and the signal."""
    work = job(corpus, tiny, tmp_path / "out", devices=2, restarts=0, max_steps=100_000)
    result = launch(work, on_event=KillOnce(1))
    assert result.state == "failed" and "rank 1: Signal 9 (SIGKILL)" in result.error


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
def test_an_error_that_would_come_again_is_told_at_once(corpus, tiny, tmp_path):
    """About 20 s: started again, the ranks see that it is of no use."""
    work = job(corpus, tiny.but(vocab_size=9), tmp_path / "out", devices=2)
    result = launch(work, on_event=lambda event: None)
    assert result.state == "failed" and result.error.startswith("ValueError")
    assert "model.vocab_size is 9" in result.error
    log = Path(work["events"]).with_suffix(".log").read_text()
    assert log.count("raise ValueError") <= 2  # each rank once


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
def test_sigterm_reaches_all_ranks_through_the_agent(corpus, tiny, tmp_path):
    """About 30 s: both finish their step, save and stop; one process goes on."""
    work = job(corpus, still(tiny), tmp_path / "out", devices=2, checkpoint_every=10**6)
    work["config"]["max_steps"] = 100_000

    asked = []

    def stop_agent(event):  # once: a second SIGTERM may end the agent, and its ranks with it
        if not asked:
            [agent] = trainings(psutil.Process())
            asked.append(agent.terminate())

    result = launch(work, on_event=stop_agent)
    assert result.state == "interrupted" and result.step > 0
    saved = list((tmp_path / "out/state").glob("step-*"))
    assert [path.name for path in saved] == [f"step-{result.step:08d}"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # this machine may be busy
def test_two_machines_meet_at_the_rendezvous(alone, corpus, tiny, tmp_path):
    """About 20 s: two agents of one process each, as on two nodes of one shared folder."""
    out = tmp_path / "out"
    work = job(corpus, still(tiny, norm=alone.name), out, nodes=2)
    path = out.with_suffix(".job.json")
    path.write_text(json.dumps(work))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = {"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": where, "PET_RDZV_ID": "test"}
    command = [sys.executable, "-m", "modules.training.fit", str(path)]
    root = Path(__file__).resolve().parents[3]
    agents = [subprocess.Popen(command, env=os.environ | meeting, cwd=root) for _ in range(2)]
    assert [agent.wait(100) for agent in agents] == [0, 0]
    np.testing.assert_allclose(curve(out), curve(alone), rtol=0, atol=1e-12)
