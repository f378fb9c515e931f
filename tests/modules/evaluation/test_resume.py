"""A killed evaluation goes on where it stopped and ends in the same bytes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from modules import tasks
from modules.evaluation import cloze, score
from modules.evaluation.ask import load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.journal import Journal
from modules.evaluation.zero_shot import evaluate_all, evaluate_subject, recompute
from modules.files import sha256

ONE_OF_EACH = ("lm_ppl_bible_kjv", "lambada_like", "cbt_like_CN", "winograd_like", "open_qa")
SMALL = ZeroShotConfig(limit=6, batch_tokens=200, batch_size=2, bootstrap_samples=50)


class Stop(Exception):
    pass


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def count_passes(monkeypatch, allowed: list[int]) -> list[int]:
    """Let `allowed[0]` passes over the model succeed; return a list that counts them."""
    asked: list[int] = []

    def counted(real):
        def run(*arguments):
            if len(asked) >= allowed[0]:
                raise Stop
            asked.append(1)
            return real(*arguments)

        return run

    monkeypatch.setattr(score, "score_rows", counted(score.score_rows))
    monkeypatch.setattr(score, "generate", counted(score.generate))
    monkeypatch.setattr(cloze, "read_words", counted(cloze.read_words))
    return asked


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_stopped_after_every_pass(name, checkpoint, data, tmp_path, monkeypatch):
    """Each start makes one more pass: no pass is made twice, and the bytes are the same."""
    task, subject = tasks.get(name), load_subject(checkpoint)
    allowed = [10**9]
    asked = count_passes(monkeypatch, allowed)
    expected = evaluate_subject(subject, task, data, tmp_path / "whole", SMALL)
    passes = len(asked)
    assert passes > 2
    for start in range(passes):
        asked.clear()
        allowed[0] = 1
        if start < passes - 1:
            with pytest.raises(Stop):
                evaluate_subject(subject, task, data, tmp_path / "parts", SMALL)
        else:
            assert evaluate_subject(subject, task, data, tmp_path / "parts", SMALL) == expected
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert recompute(tmp_path / "parts", task) == expected


def test_a_cut_or_damaged_line_is_asked_again(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, {"model": "a"})
    for key in "abc":
        journal.remember(key, lambda key=key: [1.5, key])
    journal.close()
    whole = path.read_bytes()
    for end in range(len(whole)):
        for rest in (b"", bytes(8)):
            path.write_bytes(whole[:end] + rest)
            again = Journal(path, {"model": "a"})
            assert len(again.answers) == max(0, whole[:end].count(b"\n") - 1)
            assert [again.remember(key, lambda key=key: [1.5, key]) for key in "abc"] == [
                [1.5, "a"],
                [1.5, "b"],
                [1.5, "c"],
            ]
            again.close()
            assert path.read_bytes() == whole
    other = Journal(path, {"model": "b"})
    assert not other.answers, "another model's answers are not taken for its own"
    other.close(finished=True)
    assert not path.exists()


def test_another_model_is_asked_afresh(checkpoint, data, tmp_path, monkeypatch):
    from dataclasses import replace

    subject, task = load_subject(checkpoint), tasks.get("winograd_like")
    evaluate_subject(subject, task, data, tmp_path, SMALL)
    asked = count_passes(monkeypatch, [10**9])
    evaluate_subject(subject, task, data, tmp_path, SMALL)
    assert not asked
    evaluate_subject(replace(subject, identity="other"), task, data, tmp_path, SMALL)
    assert asked


def test_unfinished_tasks_have_no_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="winograd_like is not finished there"):
        recompute(tmp_path, tasks.get("winograd_like"))


def killed(checkpoint: Path, data: Path, out: Path, config: ZeroShotConfig, after: float) -> bool:
    """Evaluate in a process that is killed after some seconds; tell whether it was in time."""
    chosen = [tasks.get(name) for name in ONE_OF_EACH]
    child = os.fork()
    if not child:
        code = 1
        try:
            evaluate_all(checkpoint, chosen, data, out, config)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + after
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def kill_often(checkpoint, data, tmp_path, config, kills: int) -> None:
    chosen = [tasks.get(name) for name in ONE_OF_EACH]
    began = time.monotonic()
    evaluate_all(checkpoint, chosen, data, tmp_path / "whole", config)
    seconds, moments = time.monotonic() - began, random.Random(0)
    delays = [moments.uniform(0, 1.5 * seconds / kills) for _ in range(kills)]
    done = sum(killed(checkpoint, data, tmp_path / "killed", config, delay) for delay in delays)
    assert done >= kills / 2, "too few kills to prove anything"
    evaluate_all(checkpoint, chosen, data, tmp_path / "killed", config)
    kept = {k: v for k, v in files(tmp_path / "killed").items() if not k.endswith(".tmp")}
    assert kept == files(tmp_path / "whole")


def test_killed_at_random_moments(checkpoint, data, tmp_path):
    kill_often(checkpoint, data, tmp_path, SMALL, 4)


@pytest.mark.slow
def test_killed_twenty_times_at_sample_scale(checkpoint, data, tmp_path):
    """A minute: every kind of task with the sample's limits."""
    config = ZeroShotConfig(limit=100, batch_tokens=4096, bootstrap_samples=200)
    kill_often(checkpoint, data, tmp_path, config, 20)
