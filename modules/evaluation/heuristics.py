"""Asking a language model that was never fine-tuned (GPT-1 paper, section 5, Figure 2 right).

Four ways to use nothing but its log-probabilities: an acceptable sentence is a likely one (CoLA);
after the text and `very`, the likelier of the label words (SST-2); the answer with the highest
mean token log-probability after document and question (RACE); the candidate after which the rest
of the sentence has the highest mean token log-probability (DPRD). No special tokens are involved:
the model sees plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modules.evaluation.ask import Subject, as_choice, load_subject
from modules.evaluation.metrics import accuracy, interval
from modules.evaluation.score import choice_logprobs, rolling_logprobs, score_groups
from modules.evaluation.spans import encode_pair, pair_spans
from modules.evaluation.zero_shot import spread
from modules.task import Choice, Example, Metric, Task, load_rows

Way = Literal["threshold", "words", "ranking"]
PROMPT = " very"  # GPT-1 paper, section 5: SST-2


@dataclass(frozen=True)
class Heuristic:
    """How one task is asked, and what the figure's 0 and 1 are."""

    task: str
    way: Way
    best: float
    """What counts as 1: the best single-model result of the paper's time, or everything right."""
    words: tuple[str, ...] = ()
    """The word asked for, a label."""
    split: str = "test"
    """Whose rows are asked; GLUE's test labels are withheld, so its validation rows are."""


HEURISTICS = (
    Heuristic("cola", "threshold", 0.350, split="val"),  # GPT-1 paper, Table 4: BiLSTM + ELMo
    Heuristic("sst2", "words", 0.932, ("negative", "positive"), split="val"),  # Table 4: mLSTM
    Heuristic("race", "ranking", 0.533),  # Table 3: BiAttention MRU (of nine models)
    Heuristic("dprd", "ranking", 1.0),  # the best of its time is not in the paper
    Heuristic("winograd_like", "ranking", 1.0),
    Heuristic("next_passage", "ranking", 1.0),
    Heuristic("social_iqa", "ranking", 1.0),
)


@dataclass(frozen=True)
class Asked:
    """A heuristic's score, and on the figure's scale: 0 is guessing, 1 is `best`."""

    value: float
    low: float
    high: float
    n: int
    guess: float
    best: float

    def scaled(self, value: float) -> float:
        """Return a score on the figure's scale."""
        return (value - self.guess) / (self.best - self.guess)


def ask(
    checkpoint: Path, task: Task, data: Path, heuristic: Heuristic, *, limit: int | None = None
) -> Asked:
    """Ask a checkpoint a task's rows, at most `limit` of them, evenly spread."""
    subject = load_subject(checkpoint)
    items = spread(task.items(load_rows(task, data, heuristic.split)), limit)
    truth = [item.label for item in items]
    if heuristic.way == "threshold":
        train = spread(task.items(load_rows(task, data, "train")), limit)
        guesses = acceptable(subject, train, items, next(iter(task.metrics.values())))
    elif heuristic.way == "words":
        guesses = likelier_word(subject, items, heuristic.words)
    else:
        guesses = highest_mean(subject, [as_ranking(item) for item in items])
    metric = next(iter(task.metrics.values())) if heuristic.way == "threshold" else accuracy
    low, high = interval(metric, guesses, truth)
    guess = 0.0 if heuristic.way == "threshold" else chance(items, heuristic)
    return Asked(metric(guesses, truth), low, high, len(items), guess, heuristic.best)


def chance(items: Sequence[Any], heuristic: Heuristic) -> float:
    """Return the accuracy of guessing blindly."""
    if heuristic.way == "words":
        return 1 / len(heuristic.words)
    return sum(1 / len(as_ranking(item).candidates) for item in items) / len(items)


def as_ranking(item: Choice | Example) -> Choice:
    """Return the candidates of an item, each (what is given, what is scored)."""
    return item if isinstance(item, Choice) else as_choice(item)


def highest_mean(subject: Subject, items: Sequence[Choice]) -> list[int]:
    """Pick each item's candidate with the highest mean token log-probability.

    Of an answer longer than half of the model's positions the beginning is read, so that some of
    what is before it stays: a mean needs no whole answer.
    """
    groups = []
    for item in items:
        pairs = [encode_pair(subject.tokenizer, *pair) for pair in item.candidates]
        cut = [(before, ids[: subject.positions // 2]) for before, ids in pairs]
        groups.append(pair_spans(cut, subject.positions))
    guesses = []
    for scores in score_groups(subject.model, groups):
        means = [score.logprob / score.tokens for score in scores]
        guesses.append(means.index(max(means)))
    return guesses


def likelier_word(subject: Subject, items: Sequence[Example], words: Sequence[str]) -> list[int]:
    """Pick the label whose word is likelier after the text and `very`."""
    asked = [[(item.texts[0][0] + PROMPT, " " + word) for word in words] for item in items]
    found = choice_logprobs(subject.model, subject.tokenizer, asked)
    return [max(range(len(words)), key=lambda k: scores[k].logprob) for scores in found]


def acceptable(
    subject: Subject, train: Sequence[Example], items: Sequence[Example], metric: Metric
) -> list[int]:
    """Call a sentence acceptable (1) above the mean log-probability that fits training best."""
    threshold = best_threshold(
        mean_logprobs(subject, train), [int(item.label) for item in train], metric
    )
    return [int(value > threshold) for value in mean_logprobs(subject, items)]


def mean_logprobs(subject: Subject, items: Sequence[Example]) -> list[float]:
    """Return the mean token log-probability of each text."""
    texts = [item.texts[0][0] for item in items]
    scored = rolling_logprobs(
        subject.model, subject.tokenizer, texts, stride=max(1, subject.positions // 2)
    )
    return [logprob / tokens for logprob, tokens in scored]


def best_threshold(values: Sequence[float], labels: Sequence[int], metric: Metric) -> float:
    """Return the (lowest) percentile of values above which calling labels 1 scores best."""
    ordered = sorted(values)
    candidates = [ordered[i * (len(ordered) - 1) // 100] for i in range(100)]
    return max(candidates, key=lambda t: metric([int(v > t) for v in values], list(labels)))
