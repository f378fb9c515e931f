"""Cleaning in pieces, in processes and again: kills lose nothing, nothing is done twice."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modules import files
from modules.corpus import clean as clean_module
from modules.corpus import filtering, runs
from modules.corpus.clean import clean
from modules.corpus.sketches import sketch
from modules.parallel import processes
from tests.modules.corpus.web_pages import CONFIG, ROOT, digests


def test_other_processes_small_runs_and_merges_change_nothing(shards, extra, tmp_path, monkeypatch):
    config = CONFIG.but(shard_documents=20)
    expected = clean(shards, [extra], tmp_path / "first", config)
    with processes(2) as spread:
        counts = clean(shards, [extra], tmp_path / "second", config, spread=spread)
    assert counts == expected and expected["dropped.near_duplicate"] > 5
    assert digests(tmp_path / "second") == digests(tmp_path / "first")
    monkeypatch.setattr(filtering, "RUN_ROWS", 3)
    monkeypatch.setattr(runs, "FAN_IN", 2)
    monkeypatch.setattr(runs, "ROWS", 2)
    assert clean(shards, [extra], tmp_path / "third", config) == expected
    assert digests(tmp_path / "third") == digests(tmp_path / "first")


def test_a_kill_at_any_write_costs_nothing(shards, extra, tmp_path, monkeypatch):
    """Stop before the n-th file becomes whole, for every n, and start again."""
    monkeypatch.setattr(files, "fsync_directory", lambda path: None)
    expected = clean(shards, [extra], tmp_path / "first", CONFIG)
    out, replace, left = tmp_path / "out", Path.replace, 0

    def replace_or_die(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    tries = 0
    while True:
        tries, left = tries + 1, tries
        with contextlib.suppress(KeyboardInterrupt):
            counts = clean(shards, [extra], out, CONFIG)
            break
    assert tries > 10
    assert counts == expected
    assert digests(out) == digests(tmp_path / "first")


def test_finished_units_are_not_done_again_unless_the_plan_is_another(
    shards, tmp_path, monkeypatch
):
    def interrupted(*args, **rest):
        raise KeyboardInterrupt

    sketched = []
    monkeypatch.setattr(clean_module, "find_duplicates", interrupted)
    monkeypatch.setattr(filtering, "sketch", lambda *a: sketched.append(a) or sketch(*a))
    for config, expected in [(CONFIG, 6), (CONFIG, 6), (CONFIG.but(shard_documents=9), 12)]:
        with pytest.raises(KeyboardInterrupt):
            clean(shards, [], tmp_path / "out", config)
        assert len(sketched) == expected


@pytest.mark.slow  # a minute
@pytest.mark.timeout(600)
def test_kills_with_two_workers_lose_and_double_nothing(shards, extra, tmp_path):
    """SIGKILL the step 20 times, each time a little later, then let it end."""
    code = (
        "import sys; from pathlib import Path; from modules.corpus.clean import *\n"
        "from modules.parallel import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(2) as spread:\n"
        "        print('begun', flush=True)\n"
        "        clean(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]),"
        " CleanConfig(filters=FilterConfig(min_words=20)), spread=spread)"
    )
    (tmp_path / "step.py").write_text(code)
    paths = [tmp_path / "step.py", shards, extra, tmp_path / "out"]
    expected = clean(shards, [extra], tmp_path / "first", CONFIG)
    killed = 0
    for number in range(21):
        run = subprocess.Popen(
            [sys.executable, *map(str, paths)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert run.stdout and run.stdout.readline() == b"begun\n"
        if number < 20:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(0.25 * number)
            run.kill()
            killed += run.wait() == -signal.SIGKILL
        assert number < 20 or run.wait() == 0
    assert killed >= 5 and expected["kept"] > 20
    assert digests(tmp_path / "out") == digests(tmp_path / "first")
