"""GPT-1's zero-shot heuristics against a straight-line reading of the model, item by item."""

import pytest
import torch

from modules import tasks
from modules.evaluation.ask import load_subject
from modules.evaluation.heuristics import (
    Asked,
    Heuristic,
    acceptable,
    ask,
    best_threshold,
    highest_mean,
    likelier_word,
)
from modules.evaluation.metrics import accuracy, matthews
from modules.task import Choice, Example


@pytest.fixture(params=["checkpoint", "lstm_checkpoint"])
def subject(request):
    return load_subject(request.getfixturevalue(request.param))


@torch.no_grad()
def logprobs(subject, given: list[int], scored: list[int]) -> list[float]:
    """Log-probability of each scored token, from the whole row's logits at once."""
    row = torch.tensor([given + scored])
    said = subject.model.logits(subject.model.eval()(row)[0]).double().log_softmax(-1)
    return [float(said[len(given) + i - 1, token]) for i, token in enumerate(scored)]


def test_race_takes_the_highest_mean(subject):
    story = "In the beginning the king went up to the city"
    answers = ("and he came back.", "no", "because all of the people had gone away long ago.")
    item = Choice("0", tuple((story, " " + a) for a in answers), 0)
    encode = subject.tokenizer.encode
    means = []
    for answer in answers:
        scored = encode(" " + answer)
        means.append(sum(logprobs(subject, encode(story), scored)) / len(scored))
    assert highest_mean(subject, [item]) == [means.index(max(means))]


def test_an_answer_longer_than_the_model_is_cut(subject):
    item = Choice("0", (("It was", " so" * 600), ("It was", " so")), 0)
    assert highest_mean(subject, [item]) in ([0], [1])


def test_sst2_compares_the_two_words_after_very(subject):
    items = [Example(str(i), ((t,),), 0) for i, t in enumerate(("It was good", "I saw him", "No"))]
    words = ("negative", "positive")
    encode, expected = subject.tokenizer.encode, []
    for item in items:
        given = encode(item.texts[0][0] + " very")
        values = [sum(logprobs(subject, given, encode(" " + word))) for word in words]
        expected.append(values.index(max(values)))
    assert likelier_word(subject, items, words) == expected


def test_cola_thresholds_the_mean_log_probability(subject):
    texts = ("He went to the house.", "House the to went he.", "And it was so.", "So was and it.")
    items = [Example(str(i), ((t,),), (i + 1) % 2) for i, t in enumerate(texts)]
    means = []
    for text in texts:
        tokens = subject.tokenizer.encode(text)
        each = logprobs(subject, [subject.tokenizer.eot], tokens)
        means.append(sum(each) / len(each))
    cut = best_threshold(means, [e.label for e in items], accuracy)
    assert acceptable(subject, items, items, accuracy) == [int(value > cut) for value in means]


def test_the_threshold_is_the_best_there_is():
    random = torch.Generator().manual_seed(0)
    values = torch.randn(60, generator=random).tolist()
    labels = [int(v + 0.5 * n > 0) for v, n in zip(values, values[::-1], strict=True)]
    best = max(matthews([int(v > t) for v in values], labels) for t in values)
    cut = best_threshold(values, labels, matthews)
    assert matthews([int(v > cut) for v in values], labels) == best


def test_the_figures_scale():
    asked = Asked(0.60, 0.5, 0.7, 100, guess=0.5, best=0.9)
    assert asked.scaled(0.5) == 0 and asked.scaled(0.9) == 1
    assert asked.scaled(asked.value) == pytest.approx(0.25)


def test_a_set_is_asked_whole_or_in_part(checkpoint, data):
    heuristic = Heuristic("social_iqa", "ranking", 1.0)
    asked = ask(checkpoint, tasks.get("social_iqa"), data, heuristic, limit=20)
    assert asked.n == 20 and asked.low <= asked.value <= asked.high
    assert asked.guess == pytest.approx(1 / 3)
