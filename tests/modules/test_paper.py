"""The paper's tables agree with themselves, with the tasks, and with its GLUE score."""

import pytest

from modules import paper, paper_gpt2, tasks
from modules.glue import GLUE, glue_score


@pytest.mark.parametrize("table", paper.GPT1_TABLES, ids=lambda table: table.title)
def test_columns_are_what_the_tasks_score(table):
    assert all(len(row) == len(table.columns) for row in table.rows.values())
    for column in table.columns:
        task = tasks.get(column.task)
        assert column.metric in task.metrics
        assert set(column.splits) <= set(task.scored)
    assert None not in table.rows[table.ours]


def test_averages_of_the_ablation():
    """The mean of the columns, but for a slip of rounding in the last row (gpt1.md 7)."""
    for method, row in paper.TABLE_5.rows.items():
        assert sum(row) / len(row) == pytest.approx(paper.TABLE_5_AVERAGES[method], abs=0.065)
    assert tuple(c.task for c in paper.TABLE_5.columns) == paper.GPT1_ABLATION_TASKS


def test_the_tasks_own_references_are_the_tables():
    for table in paper.GPT1_TABLES[:3]:
        for column, value in zip(table.columns, table.rows[paper.GPT1], strict=True):
            name = "qnli_v1" if column.task == "qnli" else column.task
            assert value in tasks.get(name).reference.values()
    assert set(paper.GPT1_TASKS) <= set(tasks.TASKS)


def test_glue_score_of_the_paper():
    """72.8 is the mean of nine tasks, two-metric ones averaged first (gpt1.md 5.3)."""
    values = {
        ("cola", "val", "matthews"): 45.4,
        ("sst2", "val", "accuracy"): 91.3,
        ("mrpc", "val", "f1"): 82.3,
        ("mrpc", "val", "accuracy"): 75.7,
        ("stsb", "val", "pearson"): 82.0,
        ("stsb", "val", "spearman"): 80.0,
        ("qqp", "val", "f1"): 70.3,
        ("qqp", "val", "accuracy"): 88.5,
        ("mnli", "val", "accuracy"): 82.1,
        ("mnli", "val_mismatched", "accuracy"): 81.4,
        ("qnli", "val", "accuracy"): 88.1,
        ("rte", "val", "accuracy"): 56.0,
        ("wnli", "val", "accuracy"): 53.4,
    }
    assert glue_score(values) == pytest.approx(paper.GLUE_SCORES[paper.GPT1], abs=0.05)
    for name, places in GLUE.items():
        task = tasks.get(name)
        assert {split for split, _ in places} == set(task.scored)
        assert {metric for _, metric in places} <= set(task.metrics)
    del values["wnli", "val", "accuracy"]
    with pytest.raises(ValueError, match="needs wnli val accuracy too"):
        glue_score(values)


def test_gpt2_results_name_scores_of_ours():
    """Each result is what its task, and every set said to be like it, really reports."""
    table = [m.name for m in paper_gpt2.MEASURED if m.name in paper_gpt2.TABLE_3]
    assert table == list(paper_gpt2.TABLE_3)
    for m in paper_gpt2.MEASURED:
        assert any(m.published), m.name
        own = tasks.get(m.task)
        for name in (m.task, *m.like):
            task = tasks.get(name)
            assert m.metric.split("_most_")[0] in task.metrics
            assert m.variant in ("", task.variant, *task.variants)
        assert all(own.hub.startswith(tasks.get(x).like.split(" ")[0]) for x in m.like)


def test_gpt2_s_tables_agree_with_the_text():
    """Averages of Table 4 (gpt2.md 6.2) and the means of Table 6 (section 7)."""
    for values in paper_gpt2.TABLE_4.values():
        assert sum(values[:3]) / 3 == pytest.approx(values[3], abs=0.01)
    for column, mean in enumerate((5.91, 3.16)):
        values = [row[column] for row in paper_gpt2.TABLE_6.values()]
        assert sum(values) / 6 == pytest.approx(mean, abs=0.0051)
    text = paper_gpt2.OTHERS
    assert text["CNN/Daily Mail ROUGE average, 1542M"] == paper_gpt2.TABLE_4["GPT-2 TL;DR:"][3]
