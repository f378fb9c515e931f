"""CoQA's F1 and exact match: cases worked out by hand, and the official rule read straight.

The rule: lower case, no ASCII punctuation, no articles, words. F1 of the word counts with one
answer; two answers without words agree. With several answers each is left out in turn, the best of
the others counts, and the mean of that is the score.
"""

import random
import re
from fractions import Fraction as F

import pytest

from modules.evaluation.metrics import coqa_exact_match, coqa_f1

TOM = ["Tom", "Tom did", "he did", "tom"]
HILL = ["on the hill", "hill", "a hill", "by the hill"]
NO = ["no", "No.", "unknown", "no, broken"]
BOOKS = ["red lamp", "red book", "a lamp", "book and lamp"]
CASES = [  # answer, accepted answers, F1, exact match
    ("lamp", ["lamp"], F(1), F(1)),
    ("a lamp", ["lamp"], F(1), F(1)),
    ("The Lamp!", ["lamp"], F(1), F(1)),
    ("red lamp", ["lamp"], F(2, 3), F(0)),  # precision 1/2, recall 1
    ("lamp", ["red lamp"], F(2, 3), F(0)),  # precision 1, recall 1/2
    ("old red lamp", ["lamp"], F(1, 2), F(0)),  # precision 1/3, recall 1
    ("dog", ["lamp"], F(0), F(0)),
    ("", ["lamp"], F(0), F(0)),
    ("the", ["lamp"], F(0), F(0)),  # no words are left
    ("", [""], F(1), F(1)),
    ("the", ["a"], F(1), F(1)),  # neither has words
    ("lamp lamp", ["lamp"], F(2, 3), F(0)),  # the second lamp is wrong
    ("lamp", ["lamp lamp"], F(2, 3), F(0)),
    ("lamp lamp", ["lamp lamp"], F(1), F(1)),
    ("Tom's lamp", ["toms lamp"], F(1), F(1)),  # punctuation goes without a space
    ("well-known", ["wellknown"], F(1), F(1)),
    ("well known", ["well-known"], F(0), F(0)),
    ("two", ["2"], F(0), F(0)),
    ("yes.", ["yes"], F(1), F(1)),
    ("Yes, he did", ["yes"], F(1, 2), F(0)),
    ("in the garden", ["the garden"], F(2, 3), F(0)),
    ("an old man", ["old man"], F(1), F(1)),
    ("theatre", ["atre"], F(0), F(0)),  # articles are whole words
    ("a  b", ["b"], F(1), F(1)),
    ("lamp", ["lamp", "lamp"], F(1), F(1)),
    ("lamp", ["lamp", "dog"], F(1, 2), F(1, 2)),  # without the first nothing is right
    ("red lamp", ["lamp", "red lamp"], F(5, 6), F(1, 2)),  # (1 + 2/3) / 2
    ("dog", ["lamp", "cat"], F(0), F(0)),
    ("lamp", ["red lamp", "old lamp"], F(2, 3), F(0)),
    ("lamp", ["lamp", "lamp", "dog", "cat"], F(1), F(1)),
    ("lamp", ["lamp", "red lamp", "dog", "cat"], F(11, 12), F(3, 4)),  # (3 * 1 + 2/3) / 4
    ("lamp", ["lamp", "dog", "cat", "cow"], F(3, 4), F(3, 4)),
    ("lamp", ["dog", "cat", "cow", "pig"], F(0), F(0)),
    ("red lamp", ["lamp", "the lamp", "a red lamp", "lamps"], F(11, 12), F(3, 4)),
    ("Tom", ["Tom", "tom", "TOM.", "Tom!"], F(1), F(1)),
    ("Tom did", TOM, F(11, 12), F(3, 4)),  # 2/3, 1, 1/2, 2/3
    ("no", NO, F(1), F(1)),  # 1, 1, 0, 2/3
    ("unknown", NO, F(3, 4), F(3, 4)),
    ("on a hill", HILL, F(11, 12), F(3, 4)),  # 1, 2/3, 2/3, 1/2
    ("hill", HILL, F(1), F(1)),  # 2/3, 1, 1, 2/3
    ("x", ["x", "x y", "z"], F(8, 9), F(2, 3)),  # (1 + 1 + 2/3) / 3
    ("x y z", ["x", "y", "z"], F(1, 2), F(0)),
    ("x y", ["x y", "y x", "x"], F(1), F(2, 3)),  # F1 knows no order, exact match does
    ("five apples", ["5 apples", "five", "apples"], F(2, 3), F(0)),
    ("3.5", ["35"], F(1), F(1)),
    ("$20", ["20"], F(1), F(1)),
    ("café", ["cafe"], F(0), F(0)),
    ("“lamp”", ["lamp"], F(0), F(0)),  # only ASCII punctuation goes
    ("lamp\n", ["lamp"], F(1), F(1)),
    ("the red lamp and the red book", BOOKS, F(79, 112), F(0)),  # 4/7, 4/7, 1/3, 3/4
    ("Mr. Hale", ["mr hale", "hale", "Mr Hale", "the man"], F(1), F(1)),
    ("an apple a day", ["apple day"], F(1), F(1)),
]


def words(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    for article in ("a", "an", "the"):
        kept = re.sub(rf"\b{article}\b", " ", kept)
    return kept.split()


def straight_f1(answer: str, accepted: str) -> F:
    got, wanted = words(answer), words(accepted)
    if not got or not wanted:
        return F(int(got == wanted))
    left, same = list(wanted), 0
    for word in got:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return F(0)
    precision, recall = F(same, len(got)), F(same, len(wanted))
    return 2 * precision * recall / (precision + recall)


def straight(score, answer: str, accepted: list[str]) -> F:
    if len(accepted) == 1:
        return score(answer, accepted[0])
    total = F(0)
    for left_out in range(len(accepted)):
        others = [a for i, a in enumerate(accepted) if i != left_out]
        total += max(score(answer, other) for other in others)
    return total / len(accepted)


def straight_match(answer: str, accepted: str) -> F:
    return F(int(words(answer) == words(accepted)))


@pytest.mark.parametrize(("answer", "accepted", "f1", "match"), CASES)
def test_cases_by_hand(answer, accepted, f1, match):
    assert straight(straight_f1, answer, accepted) == f1, "the straight reading"
    assert straight(straight_match, answer, accepted) == match
    assert coqa_f1([answer], [accepted]) == pytest.approx(float(f1), abs=1e-12)
    assert coqa_exact_match([answer], [accepted]) == pytest.approx(float(match), abs=1e-12)


def test_any_answers_score_as_the_rule_reads():
    draw = random.Random(0)
    vocabulary = ["the", "a", "An", "lamp", "Lamp.", "red", "red-hot", "it's", "no", "", "¿", "x"]

    def text() -> str:
        return " ".join(draw.choices(vocabulary, k=draw.randrange(5)))

    answers = [text() for _ in range(2000)]
    accepted = [[text() for _ in range(draw.randint(1, 4))] for _ in answers]
    for score, ours in ((straight_f1, coqa_f1), (straight_match, coqa_exact_match)):
        theirs = [straight(score, a, b) for a, b in zip(answers, accepted, strict=True)]
        one_by_one = [ours([a], [b]) for a, b in zip(answers, accepted, strict=True)]
        assert one_by_one == pytest.approx([float(x) for x in theirs], abs=1e-12)
        assert ours(answers, accepted) == pytest.approx(float(sum(theirs) / len(theirs)))


def test_there_are_fifty():
    assert len(CASES) >= 50
