"""What the documentation shows is what the code does."""

import json
import re
import runpy
from pathlib import Path

import pytest
import typer

from flows.cli import app
from modules.presets import RUNS
from modules.task import Task, load_split

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def example(page: str) -> str:
    """Return the first Python block of a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def test_example_task_reads_rows(tmp_path):
    (tmp_path / "my_reviews.py").write_text(example("finetuning.md"))
    task = runpy.run_path(str(tmp_path / "my_reviews.py"))["TASK"]
    assert isinstance(task, Task)
    rows = tmp_path / task.source / "test.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text(json.dumps({"text": "Fine.", "label": "yes"}) + "\n")
    row, *_ = load_split(task, tmp_path, "test").rows
    assert (row["text"], row["label"]) == ("Fine.", 1)


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_named_commands_and_settings_exist(page):
    known = set(typer.main.get_command(app).commands)
    for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL):
        named = re.findall(r"(?:^|bin/|\n)textmill ([a-z][a-z-]+)", block)
        assert set(named) <= known
    for path in re.findall(r"`(finetune\.training\.\w+|pretrain\.\w+)`", page.read_text()):
        config = RUNS["sample"]
        for part in path.split("."):
            config = getattr(config, part)
