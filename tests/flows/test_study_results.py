"""GLUE's average in the study: metrics of a task first, seeds before them."""

from types import SimpleNamespace

from flows.study_results import glue_table
from modules.glue import GLUE


def test_glue_counts_every_task_once():
    tuned = {
        f"{name}{seed}": {
            "scores": [
                {"split": split, "metric": metric, "value": 0.5 + 0.1 * number + spread}
                for number, (split, metric) in enumerate(places)
            ]
            + [{"split": "val", "metric": "another", "value": 100.0}]
        }
        for name, places in GLUE.items()
        for seed, spread in (("", -0.02), ("-s1", 0.02))
    }
    table = glue_table(SimpleNamespace(tuned=tuned))
    rows = dict(table.rows)
    assert rows["cola"] == "50.0" and rows["mnli"] == "55.0"
    two_metrics = sum(len(places) == 2 for places in GLUE.values())
    assert rows["GLUE"] == f"{50 + 5 * two_metrics / 9:.1f}"
