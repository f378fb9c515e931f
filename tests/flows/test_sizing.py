"""The plan's tables, and the words beside a progress bar."""

import pytest

from flows.amounts import amount, duration
from flows.sizing import memory_table, size_table, time_table
from flows.training import note
from modules import presets


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.54 kB"), (3.1e9, "3.1 GB"), (2.5e17, "250 PB")],
)
def test_amounts(value, text):
    assert amount(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (1.5, "1.50 s"), (90, "90 s"), (3600, "60.0 min"), (1e6, "11.6 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_gpt2s_plan():
    run = presets.get("gpt2")
    sizes = {row[0].strip(): row[1] for row in size_table(run.pretrain).rows}
    assert sizes["parameters"] == "124,439,808" and sizes["in the body"] == "85,056,000"
    assert sizes["tokens a step"] == "524,288"
    found = {"tokens_per_second": 1e6}
    goals = {row[0].split(":")[0]: row for row in time_table(run, found).rows}
    assert goals["Chinchilla"][1] == "2.49 G" and goals["Chinchilla"][4] == "41.5 min"
    assert goals["this run (600,000 steps)"][1:3] == ["315 G", "600,000"]


def test_epochs_without_tokens_are_not_guessed(in_fresh_project):
    table = time_table(presets.get("gpt1"), None)
    assert table.rows[0][1:] == ["?"] * 4 and "tokens/gpt1" in table.note


def test_the_memory_table_marks_the_presets_own_row():
    rows = memory_table(presets.get("tiny").pretrain.but(precision="32-true")).rows
    own = [row for row in rows if row[0].endswith("*")]
    assert len(rows) == 8 and [row[:2] for row in own] == [["32-true *", "8 x 128"]]


def test_the_words_beside_a_bar():
    event = {"step": 7, "loss": 3.14159, "tokens_per_second": 12345.6, "mfu": 0.613, "eta": 400}
    assert note(event) == "loss 3.142, 12.3k tokens/s, MFU 61%, 6.7 min left"
