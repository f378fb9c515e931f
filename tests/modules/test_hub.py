"""Public rows through the real `datasets`, from a repository that lies in a folder."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from modules import hub, tasks
from modules.files import sha256
from modules.task import load_split

pytest.importorskip("datasets")

CARD = """---
license: cc-by-4.0
configs:
- config_name: plain_text
  data_files:
  - {split: train, path: plain_text/train.parquet}
  - {split: validation, path: plain_text/validation.parquet}
  - {split: test, path: plain_text/test.parquet}
dataset_info:
- config_name: plain_text
  features:
  - {name: premise, dtype: string}
  - {name: hypothesis, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': entailment, '1': neutral, '2': contradiction}
---
"""


@pytest.fixture
def snli(tmp_path, monkeypatch):
    """SNLI's task on a repository of our own, whose revision alone is not asked from the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "origin_of", lambda _: {"revision": "abc", "licence": "cc-by-4.0"})
    repository = tmp_path / "repository"
    (repository / "plain_text").mkdir(parents=True)
    (repository / "README.md").write_text(CARD)
    rows = [{"premise": f"p {i}", "hypothesis": "h", "label": i - 1} for i in range(4)]
    for split in ("train", "validation", "test"):
        parquet.write_table(
            pa.Table.from_pylist(rows), repository / "plain_text" / f"{split}.parquet"
        )
    task = tasks.get("snli")
    return replace(task, hub=f"{repository} plain_text", source=task.folder)


def test_rows_and_their_origin_are_brought(snli, tmp_path):
    files = hub.download(snli, tmp_path)
    folder = tmp_path / "hub/stanfordnlp/snli/plain_text"
    assert files == {ours: folder / f"{theirs}.jsonl.zst" for ours, theirs in snli.splits.items()}
    found = load_split(snli, tmp_path, "val")
    assert [row["label"] for row in found.rows] == [0, 1, 2] and found.no_gold == 1
    origin = json.loads((folder / hub.ORIGIN).read_text())["validation.jsonl.zst"]
    assert origin == {
        "hub": snli.hub,
        "revision": "abc",
        "licence": "cc-by-4.0",
        "rows": 4,
        "sha256": sha256(files["val"]),
    }


def test_what_is_there_is_left_alone(snli, tmp_path):
    folder = tmp_path / "hub/stanfordnlp/snli/plain_text"
    folder.mkdir(parents=True)
    own = folder / "train.csv"
    own.write_text("premise,hypothesis,label\na,b,entailment\n")
    assert hub.splits_there(snli, tmp_path) == ["train"]
    assert hub.download(snli, tmp_path)["train"] == own
    assert set(json.loads((folder / hub.ORIGIN).read_text())) == {
        "test.jsonl.zst",
        "validation.jsonl.zst",
    }


def test_a_failed_download_leaves_nothing_and_says_what_to_do(snli, tmp_path):
    wrong = replace(snli, splits={"train": "nonsense"})
    with pytest.raises(ValueError, match=r"nonsense of .* cannot be had .*by hand: put nonsense"):
        hub.download(wrong, tmp_path)
    assert not list((tmp_path / "hub").rglob("*.zst"))


def test_without_datasets_the_mend_is_named(snli, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"textmill\[hub\].*by hand: put .*premise"):
        hub.download(snli, tmp_path)


def test_a_set_given_out_on_request_says_how(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"on request.*validation\.csv"):
        hub.download(tasks.get("story_cloze"), tmp_path)
