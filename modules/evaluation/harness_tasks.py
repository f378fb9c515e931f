"""Our benchmarks as tasks of lm-evaluation-harness: the same strings, asked its way.

What a task's items read is written out as JSON lines, and the config that simple_evaluate takes
names them; the harness's own prompts, shuffles and delimiters are left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.evaluation.ask import as_choice
from modules.files import write_jsonl
from modules.task import Choice, Cloze, Example, Item, Passage

Config = dict[str, Any]


def harness_task(name: str, items: Sequence[Item], folder: Path) -> Config:
    """Write items below a folder and return the harness's config of the task.

    Raises:
        ValueError: the harness has no such way to ask.
    """
    first = items[0]
    if isinstance(first, Cloze):
        rows, config = cloze(items)
    elif isinstance(first, Passage):
        rows, config = passages(items)
    elif isinstance(first, Choice | Example):
        rows, config = multiple_choice(items)
    else:
        raise ValueError(f"{name}: {type(first).__name__} items are not asked by log-likelihood")
    path = folder / f"{name}.jsonl"
    write_jsonl(path, rows)
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "target_delimiter": "",
        **config,
    }


def metrics(higher: bool, *names: str) -> list[Config]:
    """Return a metric list with the harness's own aggregations."""
    return [{"metric": name, "higher_is_better": higher} for name in names]


def cloze(items: Sequence[Any]) -> tuple[list[Config], Config]:
    """LAMBADA as its lambada_openai: the last word's greedy accuracy and perplexity."""
    rows = [{"context": item.context, "target": item.target} for item in items]
    config = {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "target",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    }
    return rows, config


def passages(items: Sequence[Any]) -> tuple[list[Config], Config]:
    """WikiText as its wikitext: the read text's likelihood per word and byte of the file's form."""
    rows = [
        {
            "text": item.text,
            "words": item.units,
            "bytes": len((item.original or item.text).encode()),
        }
        for item in items
    ]

    def results(doc: Config, found: Sequence[float]) -> Config:
        (loglikelihood,) = found
        by_byte = (loglikelihood, doc["bytes"])
        return {
            "word_perplexity": (loglikelihood, doc["words"]),
            "byte_perplexity": by_byte,
            "bits_per_byte": by_byte,
        }

    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "process_results": results,
        "metric_list": metrics(False, "word_perplexity", "byte_perplexity", "bits_per_byte"),
    }
    return rows, config


def multiple_choice(examples: Sequence[Any]) -> tuple[list[Config], Config]:
    """Candidates after one context, or one continuation after each (its wsc273, partial scoring).

    Raises:
        ValueError: an item's candidates differ in both.
    """
    items: list[Choice] = [as_choice(i) if isinstance(i, Example) else i for i in examples]
    contexts = all(len({context for context, _ in item.candidates}) == 1 for item in items)
    if not contexts and any(len({c for _, c in item.candidates}) > 1 for item in items):
        raise ValueError("candidates that differ before and after the cut are none of its forms")
    shared, differ = (0, 1) if contexts else (1, 0)
    rows = [
        {
            "shared": item.candidates[0][shared],
            "choices": [pair[differ] for pair in item.candidates],
            "label": item.label,
        }
        for item in items
    ]
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "shared" if contexts else "label",
        "doc_to_target": "label" if contexts else "shared",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return rows, config
