"""The page of GPT-2's results says what compares and what does not."""

import re

from flows.gpt2_page import Asked, blocks, find, panels
from modules.paper_gpt2 import MEASURED, PARAMETERS, TABLE_3

LAMBADA = next(m for m in MEASURED if m.name == "LAMBADA accuracy")


def scored(task, metric, value, **protocol):
    """A score as in scores.json."""
    protocol = {"variant": "", "stride": 128, **protocol}
    ends = {"low": value - 0.1, "high": value + 0.1, "n": 300, "split": "test"}
    return {"task": task, "metric": metric, "value": value, "protocol": protocol, **ends}


def model(*scores, parameters=1_000_000):
    """A model of ours with some scores."""
    return Asked("ours", parameters, scores)


LIKE = scored("lambada_like", "accuracy_stop_word_filter", 0.25)
OWN = scored("lambada", "accuracy_stop_word_filter", 0.5, variant="as released")
QUOTES = scored("lambada", "accuracy_stop_word_filter", 0.6, variant="plain quotes")


def row(page, name):
    """A result's row in the page's first two tables."""
    return next(row for block in page[:2] for row in block.rows if row[0] == name)


def test_a_set_that_is_only_like_the_paper_s_is_called_so():
    page = blocks([model(LIKE)], [])
    cells = row(page, "LAMBADA accuracy")
    assert cells[1:6] == ["59.23", "45.99", "55.48", "60.12", "63.24"]
    assert cells[6:] == ["like: 25", "15 to 35", "300", "lambada_like, test", "stride 128"]
    assert row(page, "WikiText2 perplexity")[6:] == ["-"] * 5
    assert "like: lambada_like" in page[2].rows[0]


def test_the_paper_s_own_set_comes_first_in_its_headline_form():
    both = model(LIKE, OWN, QUOTES)
    assert find(LAMBADA, both) is OWN
    assert row(blocks([both], []), "LAMBADA accuracy")[6] == "50"


def test_every_result_of_ours_has_interval_items_and_protocol():
    page = blocks([model(LIKE, scored("open_qa", "exact_match", 0.01))], ["text8"])
    for cells in (row for block in page[:2] for row in block.rows if row[6] != "-"):
        assert re.fullmatch(r"[-\d.]+ to [-\d.]+", cells[7]) and cells[8] == "300" and cells[10]
    assert [block.title for block in page[-2:]] == [
        "Benchmarks whose rows are not here",
        "Every score",
    ]
    assert page[-2].rows == [["text8"]] and len(page[-1].rows) == 2


def test_lines_of_the_figures_are_ours_and_the_paper_s():
    small = model(scored("lambada_like", "accuracy_stop_word_filter", 0.1), parameters=1000)
    (lines,) = panels([LAMBADA], [small, model(LIKE)]).values()
    assert [x for x, *_ in lines["ours (a set like it)"]] == [1000, 1_000_000]
    published = [(x, value) for x, value, _, _ in lines["GPT-2, as published"]]
    assert published == list(zip(PARAMETERS, TABLE_3["LAMBADA accuracy"], strict=True))
