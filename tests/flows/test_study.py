"""Studies on the tiny chain: made once, found again; a failing cell leaves the others."""

import json
import re
import shutil
from pathlib import Path

import pytest

from modules import presets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes: dozens of tiny trainings
TINY = presets.TINY.but(finetune=presets.TINY.finetune.but(seeds=(0, 1)))


@pytest.fixture
def ready(prefect_server, in_project):
    """A project in which the tiny checkpoint is made."""
    from flows.stage import stage
    from flows.study import base

    with stage("test", {}) as at:
        return base(at, TINY)


def made_by(flow, *arguments):
    """Run a study; return its summary and the tuned checkpoints it made now."""
    from flows.stage import stage

    with stage("test", {}) as at:
        summary = flow(*arguments)
        return summary, {x.fingerprint for x in at.made if x.kind == "tuned"}


def test_ablation_layers_and_results_share_their_cells(ready, in_project, tmp_path):
    from flows.study import copy_to
    from flows.study_ablation import study_ablation
    from flows.study_layers import study_layers
    from flows.study_results import study_results

    summary, made = made_by(study_ablation, TINY, presets.TINY_LSTM)
    assert len(made) == 5 * 2 * 2  # ways, tasks, seeds
    for word in ("full", "no pre-training", "no auxiliary LM", "features", "LSTM", "signed-rank"):
        assert word in summary["markdown"]
    written = copy_to(summary, tmp_path)
    assert [path.suffix for path in written] == [".md", ".png"]
    assert "](ablation.png)" in written[0].read_text()
    assert made_by(study_ablation, TINY, presets.TINY_LSTM)[1] == set()

    _, more = made_by(study_layers, TINY)
    assert len(more) == 2 * 2 * 2  # 0 and 1 of two blocks: nothing and all were there
    results, none = made_by(study_results, TINY)
    assert none == set() and "TF-IDF" in results["markdown"]
    html = next(in_project.glob("artifacts/report/tiny-results/*/report.html")).read_text()
    assert "data:image/png;base64," in html


def test_a_failing_cell_leaves_the_others(ready, in_project, tmp_path):
    from flows.study_results import study_results

    folder = tmp_path / "rows"
    shutil.copytree(in_project / "data" / "finetune", folder / "finetune")
    for path in (folder / "finetune" / "verse_pairs").iterdir():
        path.unlink()
        row = {"text_a": "a", "text_b": "b", "label": 7}
        path.with_suffix("").write_text(json.dumps(row) + "\n")
    broken = TINY.but(finetune=TINY.finetune.but(seeds=(5,), data=str(folder)))
    with pytest.raises(ValueError, match=r"1 of 2 fine-tunings failed; verse_pairs-s5.*label"):
        study_results(broken, ready.fingerprint)
    report = max(
        in_project.glob("artifacts/report/tiny-results/*/report.md"),
        key=lambda p: p.stat().st_mtime,
    )
    text = report.read_text().replace("\\_", "_")  # as Markdown shows it
    assert "verse_pairs-s5" in text and "passage_source" in text


def test_heuristics_ask_every_snapshot(ready, in_project):
    from flows.study_heuristics import study_heuristics

    summary = study_heuristics(TINY, presets.TINY_LSTM, limit=12)
    assert "Transformer" in summary["markdown"] and "LSTM" in summary["markdown"]
    found = sorted(in_project.glob("artifacts/scores/tiny-snapshots-heuristic-*/*/heuristic.json"))
    points = json.loads(found[0].read_text())
    assert [point["updates"] for point in points] == [1, 2, 5, 10, 20]


def test_zero_shot_asks_every_size_and_its_page_is_whole(ready, in_project):
    from flows.study_zero_shot import study_zero_shot

    summary, _ = made_by(study_zero_shot, TINY, presets.sizes(TINY))
    html = (Path(summary["report"]) / "report.html").read_text()
    for word in ("45.99", "like: ", "tiny-1x16 (", "8-gram overlap", "Figure 4"):
        assert word in html
    assert "data:image/png;base64," in html
    assert not re.search(r'(?:src|href)=(?!"data:)', html), "nothing is loaded"
    kept = {path.name for path in in_project.glob(".textmill/**/items/*.json")}
    assert kept >= {"tiny-lambada_like.json", "tiny-1x16-winograd_like.json"}, (
        "a table per item in MLflow"
    )
    assert [*in_project.glob(".textmill/**/report.html")], "the page in MLflow"
    from flows.stage import stage

    with stage("test", {}) as at:
        again = study_zero_shot(TINY, presets.sizes(TINY))
        assert again["report"] == summary["report"] and not at.made


def test_zero_shot_takes_checkpoints_and_says_what_has_no_rows(ready, in_project, tmp_path):
    from flows.study_zero_shot import study_zero_shot

    tasks = ("lambada_like", "text8")
    asked = TINY.but(zero_shot=TINY.zero_shot.but(tasks=tasks).model_dump())
    summary = study_zero_shot(asked, (), (ready.fingerprint,))
    assert "text8" in (Path(summary["report"]) / "report.html").read_text()
    (tmp_path / "empty").mkdir()
    empty = asked.but(finetune=TINY.finetune.but(data=str(tmp_path / "empty")).model_dump())
    with pytest.raises(FileNotFoundError, match="holds no rows of lambada_like, text8"):
        study_zero_shot(empty, (), (ready.fingerprint,))
