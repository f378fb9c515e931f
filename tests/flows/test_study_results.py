"""The page of results: GLUE's score, and what it needs."""

from flows.grid import Grid
from flows.study_results import glue_table
from modules.glue import GLUE

TUNED = {
    task: {"scores": [{"split": s, "metric": m, "value": 0.5} for s, m in places]}
    for task, places in GLUE.items()
}


def test_glue_s_score_stands_once_below_the_paper_s():
    (table,) = glue_table(Grid((), tuple(GLUE), (0,), TUNED, {}))
    assert table.rows[-2:] == [["GPT-1", "72.8"], ["ours", "50.0"]]


def test_glue_s_score_needs_all_of_its_tasks():
    some = {task: cell for task, cell in TUNED.items() if task != "wnli"}
    assert glue_table(Grid((), tuple(some), (0,), some, {})) == []
