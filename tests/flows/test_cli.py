"""The command line: help that teaches, mistakes in one line with exit code 2."""

import subprocess
import sys

import pytest

from flows import options
from flows.cli import changed
from modules import presets


def textmill(*arguments, root):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TEXTMILL_ROOT": str(root), "HOME": str(root)},
    )


def test_help_names_every_command(project):
    text = textmill("--help", root=project).stdout
    for command in (
        *("run", "up", "doctor", "models", "lineage", "checkout", "generate", "status"),
        *("corpus", "pretrain", "finetune", "evaluate", "promote", "rollback", "study", "sweep"),
        *("plan", "profile", "data"),
    ):
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nonsense"], ["no preset 'nonsense'", "sample"]),
        (["run", "tiny", "--set", "corpus.nonsense=1"], ["no setting 'corpus.nonsense'"]),
        (["run", "tiny", "--set", "pretrain.batch_size=-3"], ["batch_size", "greater than"]),
        (["finetune", "tiny", "--task", "nonsense"], ["nonsense", "verse_pairs"]),
        (["checkout", "nonsense@champion"], ["nonsense"]),
        (["lineage", "checkpoint/nonsense"], ["nonsense"]),
        (["sweep", "tiny", "--task", "nonsense"], ["nonsense", "verse_pairs"]),
        (["sweep", "tiny-lstm"], ["checkpoint/tiny-lstm"]),
        (["data", "nonsense"], ["no task 'nonsense'", "snli"]),
        (["data", "snli"], ["stanfordnlp/snli", "by hand", "premise"]),
        (["run", "tiny", "--set", 'corpus.dumps=["web/none.zst"]'], ["none.zst", "make data"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_is_one_line_and_exit_2(project, arguments, words):
    done = textmill(*arguments, root=project)
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("textmill: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line


def test_no_project_here(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 2 and "data.dvc" in done.stderr


def test_an_unreachable_database_is_named_without_its_password(project):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status"],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(project),
            "TEXTMILL_ROOT": str(project),
            "TEXTMILL_DATABASE_URL": "sqlite:////nowhere/at/all.db",
        },
    )
    assert done.returncode == 2 and "/nowhere/at/all.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_change_by_path_and_are_checked():
    run = changed(presets.TINY, ["pretrain.max_steps=7", "corpus.clean.filters.min_words=33"])
    assert run.pretrain.max_steps == 7 and run.corpus.clean.filters.min_words == 33
    assert presets.TINY.pretrain.max_steps == 20
    with pytest.raises(ValueError, match="expected PATH=VALUE"):
        changed(presets.TINY, ["pretrain.max_steps"])


def test_the_example_of_set_is_a_setting():
    assert options.load_preset("sample", [options.EXAMPLE]).corpus.clean.filters.min_words == 60
