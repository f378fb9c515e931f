"""Turn a benchmark's items into rows of results, one way per format.

A row holds an item's id and all that the metrics need; metrics never see the model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.evaluation.cloze import cloze_rows
from modules.evaluation.config import Convention, Precision
from modules.evaluation.journal import Remember, afresh
from modules.evaluation.metrics import first_sentences
from modules.evaluation.score import (
    choice_logprobs,
    generate_texts,
    rolling_logprobs,
    score_groups,
)
from modules.evaluation.spans import Span
from modules.files import Progress, silent
from modules.model.base import Decoder
from modules.model.checkpoint import CONFIG, load, read_json_object
from modules.model.generate import GenerationConfig
from modules.task import Choice, Example, Passage, Prompt, Row, Task
from modules.tokenizer import Tokenizer
from modules.tokenizer import load as load_tokenizer

TOKENIZER = ("tokenizer/*", "tokenizer*.*", "vocab.*", "merges.*", "added_tokens.json")
"""Files of a tokenizer: ours in a folder, transformers' beside the weights."""


@dataclass(frozen=True)
class Subject:
    """A model that is asked, with its tokenizer, and the hash of the files it is from."""

    model: Decoder
    tokenizer: Tokenizer
    identity: str

    @property
    def positions(self) -> int:
        """Longest context in tokens."""
        return int(self.model.config.n_positions)


@dataclass(frozen=True)
class Settings:
    """How a model is asked; batch_tokens and batch_size change no number beyond rounding."""

    batch_tokens: int
    batch_size: int
    precision: Precision
    stride: int
    seed: int
    convention: Convention = "paper"

    @property
    def scoring(self) -> dict[str, Any]:
        """The arguments that all scoring functions take."""
        return {"batch_tokens": self.batch_tokens, "precision": self.precision}


def load_subject(checkpoint: Path, device: str = "cpu") -> Subject:
    """Load a checkpoint and the tokenizer in it, or the folder of a model of transformers.

    Raises:
        FileNotFoundError: a file of it is not there.
        ValueError: the model has fewer embeddings than the tokenizer has ids.
    """
    model: Any
    tokenizer: Any
    if "model_type" in read_json_object(checkpoint / CONFIG):  # not one of ours
        from modules.evaluation.transformers_model import load_transformers

        model, tokenizer = load_transformers(checkpoint, device)
    else:
        model, tokenizer = load(checkpoint, device), load_tokenizer(checkpoint / "tokenizer")
    if model.config.vocab_size < tokenizer.n_vocab:
        raise ValueError(
            f"{checkpoint}: the tokenizer has {tokenizer.n_vocab} ids, "
            f"the model only {model.config.vocab_size}"
        )
    return Subject(model, tokenizer, identity(checkpoint))


def identity(checkpoint: Path) -> str:
    """Return a hash of a checkpoint's config, tokenizer, and 4 KiB in every MiB of its weights.

    Training moves every weight, so this tells models apart at a hundredth of the cost.
    """
    digest = hashlib.sha256((checkpoint / CONFIG).read_bytes())
    for path in sorted(path for name in TOKENIZER for path in checkpoint.glob(name)):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(checkpoint.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            for start in range(0, path.stat().st_size, 2**20):
                file.seek(start)
                digest.update(file.read(2**12))
    return digest.hexdigest()


def rows_of(
    subject: Subject,
    task: Task,
    items: Sequence[Any],
    settings: Settings,
    *,
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[Row]:
    """Ask the model all items of a task.

    Args:
        remember: where answers are kept as they come (modules/evaluation/journal.py).

    Raises:
        ValueError: the task's format has no zero-shot form.
    """
    how = {"remember": remember, "progress": progress, **settings.scoring}
    match task.format:
        case "perplexity":
            return passage_rows(subject, items, settings.stride, how)
        case "cloze":
            how["filtered"] = settings.convention == "paper"
            return cloze_rows(subject.model, subject.tokenizer, items, **how)
        case "choice":
            return choice_rows(subject, items, settings, how, mean=False)
        case "multiple_choice":
            choices, mean = [as_choice(item) for item in items], settings.convention == "paper"
            return choice_rows(subject, choices, settings, how, mean=mean)
        case "generation":
            return generation_rows(subject, task, items, settings, how)
    raise ValueError(f"task {task.name} ({task.format}) has no zero-shot form: fine-tune on it")


def as_choice(example: Example) -> Choice:
    """Return an answer-ranking item: each answer after document and question."""
    candidates = tuple((context, " " + answer) for context, answer in example.texts)
    return Choice(example.id, candidates, int(example.label))


def passage_rows(
    subject: Subject, items: Sequence[Passage], stride: int, how: dict[str, Any]
) -> list[Row]:
    """Score running text; words and bytes are those of the file's own form."""
    scored = rolling_logprobs(
        subject.model,
        subject.tokenizer,
        [item.text for item in items],
        stride=stride,
        before=[item.before for item in items],
        **how,
    )
    return [
        {
            "id": item.id,
            "domain": item.domain,
            "nll": -logprob,
            "tokens": tokens,
            "words": item.units,
            "bytes": len((item.original or item.text).encode()),
            "fallback": item.fallback,
        }
        for item, (logprob, tokens) in zip(items, scored, strict=True)
    ]


def choice_rows(
    subject: Subject,
    items: Sequence[Choice],
    settings: Settings,
    how: dict[str, Any],
    *,
    mean: bool,
) -> list[Row]:
    """Pick the candidate with the highest log-probability, in sum or per token."""
    scored = choice_logprobs(
        subject.model,
        subject.tokenizer,
        [item.candidates for item in items],
        cut_alike=settings.convention == "paper",
        **how,
    )
    rows = []
    for item, scores in zip(items, scored, strict=True):
        values = [s.logprob / s.tokens if mean else s.logprob for s in scores]
        rows.append(
            {
                "id": item.id,
                "logprobs": [s.logprob for s in scores],
                "tokens": [s.tokens for s in scores],
                "prediction": values.index(max(values)),
                "reference": item.label,
                "dropped": max(s.dropped for s in scores),
            }
        )
    return rows


def generation_settings(task: Task, positions: int) -> dict[str, Any]:
    """Return a task's way to generate; half of the positions stay for the prompt."""
    longest = min(task.generation["max_new_tokens"], positions // 2)
    return {**task.generation, "max_new_tokens": longest}


def generation_rows(
    subject: Subject,
    task: Task,
    items: Sequence[Prompt],
    settings: Settings,
    how: dict[str, Any],
) -> list[Row]:
    """Continue the prompts and cut the answers out; prompts too long lose their beginning."""
    ways = generation_settings(task, subject.positions)
    config = GenerationConfig(
        seed=settings.seed,
        batch_size=settings.batch_size,
        **{k: v for k, v in ways.items() if k in GenerationConfig.model_fields},
    )
    room = subject.positions - config.max_new_tokens
    prompts = [subject.tokenizer.encode(item.prompt) for item in items]
    continued = generate_texts(
        subject.model,
        subject.tokenizer,
        [prompt[-room:] for prompt in prompts],
        config,
        stop_at_line_end=ways.get("stop_at_line_end", False),
        **{name: how[name] for name in ("precision", "remember", "progress")},
    )
    rows: list[Row] = []
    for item, prompt, ids in zip(items, prompts, continued, strict=True):
        text = subject.tokenizer.decode(ids)
        rows.append(
            {
                "id": item.id,
                "text": text,
                "prediction": cut_answer(text, ways),
                "reference": list(item.references),
                "dropped": max(0, len(prompt) - room),
            }
        )
    if ways.get("confidence"):
        spans = answer_spans(subject.tokenizer, [p[-room:] for p in prompts], continued)
        scored = score_groups(subject.model, spans, **how)
        for row, (score,) in zip(rows, scored, strict=True):
            row["logprob"] = score.logprob
    return rows


def cut_answer(text: str, ways: dict[str, Any]) -> str:
    """Return the part of a continuation that counts."""
    if ways.get("stop_at_line_end"):
        text = text.lstrip(" ").split("\n")[0]
    if "first_sentences" in ways:
        text = first_sentences(text, ways["first_sentences"])
    return text.strip()


def answer_spans(
    tokenizer: Tokenizer, prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> list[list[Span]]:
    """Return the spans of whole answers: with the line end, or an empty one would be certain."""
    end = tokenizer.encode("\n")
    return [
        [Span(prompt + answer + end, len(answer) + len(end))]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
