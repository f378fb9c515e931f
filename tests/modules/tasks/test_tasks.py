"""The folder is the table; rows become the items that the papers describe."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules import tasks
from modules.files import write_jsonl
from modules.task import FINETUNE_FORMATS, Task, find_split, load_rows

FOLDER = Path(tasks.__file__).parent
ONLY_SHARED = ("intents_snips", "passage_author", "vitaminc", "summarization_papers")


def rows_of(task: Task, data: Path, shared: Path | None = None) -> list:
    return load_rows(task, shared if shared else data, "test")


def test_every_file_is_a_task_of_its_name():
    files = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    assert files == list(tasks.TASKS)
    assert all(task.name == name for name, task in tasks.TASKS.items())
    assert all(set(task.scored) <= set(task.splits or ["test"]) for task in tasks.TASKS.values())


def test_an_unknown_name_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"no task 'lambda'; there are: .*lambada_like"):
        tasks.get("lambda")


def test_a_broken_task_file_is_an_error(tmp_path):
    copy = tmp_path / "modules" / "tasks"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text((FOLDER / "__init__.py").read_text())
    (copy / "broken.py").write_text("TASK = undefined\n")
    code = (
        f"import modules; modules.__path__.insert(0, {str(tmp_path / 'modules')!r}); "
        "import modules.tasks"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "broken.py" in done.stderr and "undefined" in done.stderr


def test_the_table_needs_no_heavy_package():
    heavy = ["torch", "sklearn", "sacrebleu", "rouge_score", "transformers", "lightning"]
    code = f"import sys, modules.tasks; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "name", [n for n, t in tasks.TASKS.items() if t.like and n not in ONLY_SHARED]
)
def test_sample_rows_become_items(name, data):
    check_items(tasks.get(name), data)


@pytest.mark.parametrize("name", ONLY_SHARED)
def test_larger_sets_become_items(name, shared_data):
    check_items(tasks.get(name), shared_data)


def check_items(task: Task, data: Path) -> None:
    rows = load_rows(task, data, "test")
    for make in (task.items, *task.variants.values()):
        items = make(rows)
        assert items
        assert len({item.id for item in items}) == len(items)
    if task.format in FINETUNE_FORMATS:
        labels = {item.label for item in items}
        assert labels == set(range(len(task.labels) or max(map(len, (i.texts for i in items)))))
        for split in task.splits:
            assert load_rows(task, data, split)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "label": 0}, r"row 2: column 'text' is missing \(has id, label\)"),
        ({"text": "x", "label": None}, "row 2: column 'label' is missing"),
        ({"text": "x", "label": "sqlite"}, "row 2: column 'label' is 'sqlite'; allowed: address_1"),
        ({"text": "x", "label": 8}, "row 2: column 'label' is 8; allowed"),
        ({"text": "x", "label": True}, "row 2: column 'label' is True; allowed"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    task = replace(tasks.get("passage_source"), source="set")
    write_jsonl(tmp_path / "set" / "test.jsonl", [{"text": "ok", "label": "python_docs"}, row])
    with pytest.raises(ValueError, match=rf"test\.jsonl, {message}"):
        load_rows(task, tmp_path, "test")


def test_labels_may_be_names_or_numbers(tmp_path):
    task = replace(tasks.get("passage_source"), source="set")
    rows = [{"text": "a", "label": "sqlite_docs"}, {"text": "b", "label": 7}]
    write_jsonl(tmp_path / "set" / "test.jsonl", rows)
    assert [row["label"] for row in load_rows(task, tmp_path, "test")] == [7, 7]


def test_a_choice_out_of_range_is_named(tmp_path):
    task = replace(tasks.get("social_iqa"), source="set")
    row = {"document": "d", "question": "q", "answers": ["a", "b"], "label": 2}
    write_jsonl(tmp_path / "set" / "test.jsonl", [row])
    with pytest.raises(ValueError, match="row 1: column 'label' is 2; allowed: 0, 1"):
        load_rows(task, tmp_path, "test")


def test_an_absent_or_empty_file_is_named(tmp_path):
    task = tasks.get("lambada_like")
    with pytest.raises(FileNotFoundError, match="lambada_like"):
        load_rows(task, tmp_path, "test")
    write_jsonl(tmp_path / "zeroshot" / "lambada_like.jsonl", [])
    with pytest.raises(ValueError, match="no rows in it"):
        load_rows(task, tmp_path, "test")


def test_gpt1_transformations():
    """GPT-1, Figure 1: the segments between start, delimiter and extract."""
    entailment = tasks.get("question_in_sentence").items
    assert entailment([{"id": "1", "premise": "p", "hypothesis": "h", "label": 1}])[0].texts == (
        ("p", "h"),
    )
    similarity = tasks.get("verse_pairs").items
    assert similarity([{"id": "1", "text_a": "a", "text_b": "b", "label": 1}])[0].texts == (
        ("a", "b"),
        ("b", "a"),
    )
    choice = tasks.get("social_iqa").items
    row = {"id": "1", "document": "z", "question": "q", "answers": ["x", "y"], "label": 1}
    assert choice([row])[0].texts == (("z q", "x"), ("z q", "y"))
    assert choice([row | {"question": ""}])[0].texts == (("z", "x"), ("z", "y"))


def test_lambada_is_cut_before_the_last_word(data):
    task = tasks.get("lambada_like")
    rows = load_rows(task, data, "test")
    for row, item in zip(rows, task.items(rows), strict=True):
        assert item.target == " " + row["answer"]
        assert item.context + item.target == row["text"]


def test_cbt_scores_the_candidate_and_the_rest_of_the_sentence(data):
    task = tasks.get("cbt_like_NE")
    rows = load_rows(task, data, "test")
    for row, item in zip(rows, task.items(rows), strict=True):
        context, continuation = item.candidates[item.label]
        filled = row["query"].replace("XXXXX", row["answer"])
        assert (context + continuation).endswith(filled)
        assert continuation.startswith(row["answer"])
        assert len({context for context, _ in item.candidates}) == 1


def test_winograd_partial_and_full_are_the_same_sentences(data):
    task = tasks.get("winograd_like")
    rows = load_rows(task, data, "test")
    for a, b in zip(task.items(rows), task.variants["full"](rows), strict=True):
        assert ["".join(pair) for pair in a.candidates] == [text for _, text in b.candidates]
        assert all(context == "" for context, _ in b.candidates)
        assert len({after for _, after in a.candidates}) == 1


def test_winograd_fixes_articles_and_spaces():
    items = tasks.get("winograd_like").items
    row = {"id": "1", "sentence": "Ann told  Bob that _ was late.", "label": 0}
    row["options"] = ["The teacher", "Bob"]
    assert items([row])[0].candidates[0] == ("Ann told Bob that the teacher", " was late.")
    row["sentence"] = "It rained. _ was late."
    assert items([row])[0].candidates[0] == ("It rained. The teacher", " was late.")


def test_coqa_asks_every_turn_with_the_given_answers_before(data):
    task = tasks.get("coqa_like")
    rows = load_rows(task, data, "test")
    items = task.items(rows)
    assert len(items) == sum(len(row["turns"]) for row in rows) == 947
    first, second = rows[0]["turns"][:2]
    assert items[1].prompt.endswith(
        f"\nQ: {first['question']}\nA: {first['answers'][0]}\nQ: {second['question']}\nA:"
    )


@pytest.mark.parametrize(
    "name",
    [n for n, t in tasks.TASKS.items() if t.like and t.format == "generation" and not t.by_hand],
)
def test_prompts_do_not_end_in_a_space_and_hold_no_answer(name, data):
    task = tasks.get(name)
    rows = load_rows(task, data, "test")
    items = task.items(rows)
    assert not any(item.prompt.endswith(" ") for item in items)
    examples = {row["id"] for row in rows if row.get("use") == "example"}
    assert not examples & {item.id for item in items}


def test_translation_directions_mirror_each_other(data):
    there, back = tasks.get("translation_en_fr"), tasks.get("translation_fr_en")
    rows = load_rows(there, data, "test")
    a, b = there.items(rows)[0], back.items(rows)[0]
    assert a.prompt.splitlines()[-1] == f"{b.references[0]} ="
    assert b.prompt.splitlines()[-1] == f"{a.references[0]} ="
    assert len(a.prompt.splitlines()) == 1 + there.shots


def test_words_of_running_text_are_those_of_the_readme(data):
    words = {"bible_kjv": 15784, "speeches": 20170, "python_docs": 15925, "encyclopedia": 22400}
    for domain, expected in words.items():
        task = tasks.get(f"lm_ppl_{domain}")
        assert sum(item.units for item in task.items(load_rows(task, data, "test"))) == expected


def test_tokenized_units_do_not_depend_on_the_detokenizer(data):
    for name in ("tokenized_wikitext", "tokenized_treebank", "tokenized_ptb"):
        task = tasks.get(name)
        rows = load_rows(task, data, "test")
        for clean, raw in zip(task.items(rows), task.variants["raw"](rows), strict=True):
            assert clean.units == raw.units == len(raw.text.split()) + 1
            assert clean.original == raw.text


def test_labels_agree_with_the_report(data, shared_data):
    for folder in (data, shared_data):
        report = json.loads((folder / "finetune" / "report.json").read_text())
        for name, entry in report.items():
            labels = entry.get("labels", [])
            assert all(isinstance(x, int) for x in labels) or tasks.get(name).labels == tuple(
                labels
            )
            assert find_split(tasks.get(name), folder, "train")
