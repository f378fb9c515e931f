"""GPT-2's sets on a few rows each, in the layouts that the public sets have."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from modules import tasks
from modules.evaluation import passages
from modules.evaluation.detokenize import restore
from modules.evaluation.styles import ONE_BILLION_WORDS, PTB, WIKITEXT
from modules.rows import read_rows
from modules.task import asked_rows, load_rows, with_shots

FIXTURES = Path(__file__).parent / "fixtures"
GPT2 = [
    *("lambada", "lambada_standard", "cbt_cn", "cbt_ne", "cbt_v", "cbt_p"),
    *("wikitext2", "wikitext103", "ptb", "one_billion_words", "enwik8", "text8"),
    *("winograd", "coqa", "cnn_dailymail", "wmt14_en_fr", "wmt14_fr_en", "natural_questions"),
]


def items_of(name: str, variant: str | None = None) -> list:
    task = tasks.get(name)
    rows = asked_rows(task, FIXTURES, task.scored[0])
    return (task.items if variant is None else task.variants[variant])(rows)


@pytest.mark.parametrize("name", GPT2)
def test_rows_of_every_split_become_items(name):
    task = tasks.get(name)
    assert (task.hub and task.reference) or name in ("cbt_v", "cbt_p")
    for split in task.splits:
        for make in (task.items, *task.variants.values()):
            items = make(asked_rows(task, FIXTURES, split))
            assert items and len({item.id for item in items}) == len(items)
    assert set(task.scored) <= set(task.splits)


def test_lambada_as_released_and_with_plain_quotes():
    plain = items_of("lambada", "plain quotes")
    assert plain[0].context.startswith('\n"You took the lantern?" asked Ruth.\n\n"I did,"')
    assert plain[2].context.startswith('\n"Is it cold?" she called')
    assert [i.target for i in plain] == [i.target for i in items_of("lambada")]
    assert plain[0].target == " lantern"


def test_the_standard_lambada_gets_its_capitals_back():
    clean, raw = items_of("lambada_standard"), items_of("lambada_standard", "raw")
    assert clean[0].context == (
        '"You took the lantern?" asked ruth. "I did," said tom, '
        '"and I left it by the well." So they went down to the'
    )
    assert [i.target for i in clean] == [i.target for i in raw] == [" well", " loaf", " cold"]


def test_cbt_is_detokenized():
    first = items_of("cbt_cn")[0]
    context, continuation = first.candidates[first.label]
    assert context.endswith('The wheel. "Then I will mend the ') or context.endswith(
        'turned slowly. "Then I will mend the '
    )
    assert '"The mill is old," he said, "and I cannot mend it."' in context
    assert continuation == 'mill," said the youngest, "if it isn\'t too late."'
    assert items_of("cbt_ne")[2].candidates[5][1] == "Otto's brother."


def test_wikitext_is_read_by_article_and_counts_every_line_end():
    rows = load_rows(tasks.get("wikitext2"), FIXTURES, "test")
    clean, raw = items_of("wikitext2"), items_of("wikitext2", "raw")
    assert len(clean) == len(raw) == 2
    tokens = sum(len(row["text"].split()) for row in rows)
    for found in (clean, raw):
        assert sum(item.units for item in found) == tokens + len(rows)
    assert "built in 1,702 (or 1703).\n" in clean[0].text
    assert clean[1].text == '= Reed Bridge =\n\n"Reed" is 2.5 km long.\n'
    assert [restore(line, WIKITEXT) for line in clean[0].text.split("\n")] == (
        raw[0].text.split("\n")
    )


def test_the_real_wikitext_has_245569_units(shared_data, tmp_path):
    """The count that the literature divides by, <eos> of blank lines included (gpt2.md 5.1)."""
    source = shared_data / "zeroshot/lm_ppl/wikitext2.test.tokens"
    if not source.exists():
        pytest.skip("WikiText-2 is not in ../shared/data")
    task = tasks.get("wikitext2")
    path = tmp_path / task.folder / "test.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())
    items = task.items(load_rows(task, tmp_path, "test"))
    assert sum(item.units for item in items) == 245_569
    assert 60 <= len(items) <= 62
    assert sum(item.fallback for item in items) == 1


def test_ptb_and_1bw_restore_their_lines():
    ptb = items_of("ptb")
    assert (
        ptb[0].text.split("\n")[1]
        == "The <unk> group of boston cannot be reached in the U.S. on Monday."
    )
    lines = [
        row["text"].strip() for row in read_rows(FIXTURES / tasks.get("ptb").folder / "test.txt")
    ]
    assert [restore(line, PTB) for line in ptb[0].text.split("\n")[:-1]] == lines
    assert ptb[0].units == sum(len(line.split()) + 1 for line in lines)
    news = items_of("one_billion_words")
    assert news[1].text == "The mill opens at 10:30 a.m. and costs $5 (children 1/2 price).\n"
    assert all(restore(i.text[:-1], ONE_BILLION_WORDS) + "\n" == i.original for i in news)


def test_a_stream_is_cut_into_passages_that_know_what_is_before(monkeypatch):
    monkeypatch.setattr(passages, "LINES", 2)
    monkeypatch.setattr(passages, "BEFORE", 20)
    rows = [{"sentence": f"line {i} is n't long"} for i in range(5)]
    found = tasks.get("ptb").items(rows)
    assert [len(i.text.splitlines()) for i in found] == [2, 2, 1]
    assert [i.before for i in found] == ["", found[0].text[-20:], found[1].text[-20:]]


@pytest.mark.parametrize("ending", ["rows", "file"])
def test_enwik8_scores_the_last_five_million_bytes(ending, tmp_path):
    lines = [f"<p>line {i} Mühle</p>" + " x" * 40 for i in range(60_000)]
    task = tasks.get("enwik8")
    path = tmp_path / task.folder / ("train.txt" if ending == "file" else "train.jsonl")
    path.parent.mkdir(parents=True)
    if ending == "file":
        path.write_text("\n".join(lines))
    else:
        from modules.files import write_jsonl

        write_jsonl(path, [{"text": line} for line in lines])
    items = task.items(load_rows(task, tmp_path, "test"))
    whole = "".join(item.text for item in items)
    assert whole.encode() == "\n".join(lines).encode()[-5_000_000:]
    assert sum(item.units for item in items) == 5_000_000
    assert max(len(item.text) for item in items) <= passages.PIECE
    assert all(a.text.endswith(b.before[-100:]) for a, b in pairwise(items))


def test_text8_in_one_line_is_cut_between_words():
    words = " one two" * 10_000
    items = tasks.get("text8").items([{"text": words}])
    assert "".join(item.text for item in items) == words and len(items) == 5
    assert all(item.text.startswith(" ") for item in items)


def test_winograd_fills_the_pronouns_place():
    he, her, it = items_of("winograd")
    assert he.candidates[1] == (
        "The miller sold the baker flour because the baker",
        " had too much of it.",
    )
    assert her.candidates[1] == ("Ann asked Ruth about the lamp, but Ruth's", " answer was short.")
    assert it.candidates[0][0].endswith("Tom said the cart")
    full = items_of("winograd", "full")[0]
    assert full.candidates[0] == ("", "".join(he.candidates[0]))


def test_a_pronoun_that_is_not_there_is_named():
    task = tasks.get("winograd")
    rows = load_rows(task, FIXTURES, "test")
    with pytest.raises(ValueError, match="row 0: column 'pronoun' is 'he', but at"):
        task.items([rows[0] | {"pronoun_loc": 3}])


def test_coqa_asks_every_turn_and_has_four_peoples_answers():
    first, second, *_ = items_of("coqa")
    assert first.references == ("a lamp", "A lamp.", "lamp", "one lamp")
    assert second.id == "a1/1"
    assert second.prompt.endswith("\nQ: What did Ruth have?\nA: a lamp\nQ: Who broke it?\nA:")


def test_summaries_with_and_without_hint():
    hint, none = items_of("cnn_dailymail")[0], items_of("cnn_dailymail", "no hint")[0]
    assert hint.prompt == none.prompt + "TL;DR:"
    assert hint.references == ("Old mill burned on Monday .\nOwner will build it again .",)
    assert tasks.get("cnn_dailymail").generation == {
        "max_new_tokens": 100,
        "top_k": 2,
        "first_sentences": 3,
    }


def test_translation_takes_its_examples_from_validation_both_ways():
    there, back = items_of("wmt14_en_fr")[0], items_of("wmt14_fr_en")[0]
    assert there.prompt == (
        "The lamp is lit. = La lampe est allumée.\nRuth is at home. = Ruth est à la maison.\n"
        "He broke the wheel. = Il a cassé la roue.\nThe mill is old. ="
    )
    assert back.prompt.endswith("Il a cassé la roue. = He broke the wheel.\nLe moulin est vieux. =")
    assert (there.references, back.references) == (("Le moulin est vieux.",), ("The mill is old.",))


@pytest.mark.parametrize(("shots", "lines"), [(0, 2), (1, 4), (3, 8)])
def test_the_number_of_examples_is_a_setting(shots, lines):
    task = with_shots(tasks.get("natural_questions"), shots)
    prompts = task.items(asked_rows(task, FIXTURES, "val"))
    assert len(prompts) == 3
    assert len(prompts[0].prompt.splitlines()) == lines
    assert prompts[0].prompt.endswith("Q: who owns the old mill\nA:")
    assert prompts[0].references == ("Mr. Hale", "Hale")


def test_a_task_without_examples_takes_none():
    with pytest.raises(ValueError, match="task coqa has no examples before its prompts"):
        with_shots(tasks.get("coqa"), 2)


def test_a_gap_that_is_not_there_is_named():
    task = replace(tasks.get("cbt_cn"))
    row = load_rows(task, FIXTURES, "val")[0]
    with pytest.raises(ValueError, match="row 1: column 'question' needs 'XXXXX'"):
        task.items([row | {"question": "no gap ."}])
