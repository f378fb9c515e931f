"""Metrics against libraries that nobody here wrote."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats
from sklearn import metrics as sk

from modules.evaluation import metrics as m

random = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_metrics_equal_scikit_learn(classes):
    for _ in range(20):
        truth = random.integers(0, classes, 60).tolist()
        guess = random.integers(0, classes, 60).tolist()
        assert m.accuracy(guess, truth) == pytest.approx(sk.accuracy_score(truth, guess))
        assert m.matthews(guess, truth) == pytest.approx(sk.matthews_corrcoef(truth, guess))
        if classes == 2:
            assert m.f1(guess, truth) == pytest.approx(sk.f1_score(truth, guess))


@pytest.mark.parametrize("truth", [[0, 1, 1], [0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("guess", [[0, 0, 0], [1, 1, 1], [1, 0, 0]])
def test_degenerate_predictions_equal_scikit_learn(guess, truth):
    assert m.accuracy(guess, truth) == sk.accuracy_score(truth, guess)
    assert m.matthews(guess, truth) == pytest.approx(sk.matthews_corrcoef(truth, guess))
    assert m.f1(guess, truth) == pytest.approx(sk.f1_score(truth, guess, zero_division=0))


def scores(kind, n):
    """Return predictions and references of one kind of hardness."""
    reference = random.choice(np.arange(0, 5.2, 0.2), n)  # STS-B's own, full of ties
    return {
        "free": (random.normal(size=n), random.normal(size=n)),
        "ties": (reference.round() + random.integers(0, 2, n), reference),
        "far from 0": (1e6 + random.normal(size=n), reference),
        "almost constant": (1 + 1e-6 * random.normal(size=n), reference),
        "opposite": (-reference, reference),
        "one apart": (np.eye(1, n)[0], reference),
    }[kind]


@pytest.mark.parametrize("n", [2, 3, 60])
@pytest.mark.parametrize(
    "kind", ["free", "ties", "far from 0", "almost constant", "opposite", "one apart"]
)
def test_correlations_equal_scipy(kind, n):
    for _ in range(10):
        x, y = scores(kind, n)
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        assert m.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-8)
        assert m.spearman(x.tolist(), y.tolist()) == pytest.approx(
            stats.spearmanr(x, y).statistic, abs=1e-12
        )


@pytest.mark.parametrize(
    ("x", "y"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 3.0], [2.0, 2.0]), ([2.0], [3.0])]
)
def test_a_constant_side_has_no_correlation(x, y):
    """SciPy gives NaN with a warning there; a score must be a number, and 0 is what it is worth."""
    assert m.pearson(x, y) == m.spearman(x, y) == 0.0


@pytest.mark.parametrize("metric", ["matthews", "f1", "pearson", "spearman"])
def test_intervals_are_those_of_scipys_bootstrap(metric):
    ours = getattr(m, metric)
    truth = random.integers(0, 2, 400)
    guess = np.where(random.random(400) < 0.8, truth, 1 - truth)
    if metric in ("pearson", "spearman"):
        truth, guess = truth + random.normal(size=400), guess + random.normal(size=400)
    library = {
        "matthews": lambda p, r: sk.matthews_corrcoef(r, p),
        "f1": lambda p, r: sk.f1_score(r, p),
        "pearson": lambda p, r: stats.pearsonr(p, r).statistic,
        "spearman": lambda p, r: stats.spearmanr(p, r).statistic,
    }[metric]
    low, high = m.interval(ours, guess.tolist(), truth.tolist(), samples=1000)
    theirs = stats.bootstrap(
        (guess, truth),
        library,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=150,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_intervals_of_degenerate_predictions_are_numbers(name):
    for guess in ([1] * 30, [0] * 30, [0] * 29 + [1]):
        low, high = m.interval(getattr(m, name), guess, [0, 1, 1] * 10, samples=200)
        assert math.isfinite(low) and low <= high


def test_perplexity_and_bits_are_of_the_totals():
    nll, words = [10.0, 30.0], [5, 3]
    assert m.perplexity(nll, words) == pytest.approx(math.exp(40 / 8))
    assert m.bits_per_byte(nll, [20, 20]) == pytest.approx(1 / math.log(2))


def test_bleu_equals_sacrebleu():
    refs = ["the cat sat on the mat.", "a quick brown fox", "it is what it is, you know"]
    hyps = ["the cat is on the mat.", "the quick brown fox jumps", "it is what, you know"]
    expected = BLEU().corpus_score(hyps, [refs]).score
    assert m.bleu(hyps, [[r] for r in refs]) == pytest.approx(expected)
    assert m.bleu(["x"], [["y z"]]) == pytest.approx(BLEU().corpus_score(["x"], [["y z"]]).score)
    assert "tok:13a" in m.bleu_signature() and "version:" in m.bleu_signature()


@pytest.fixture(scope="module")
def texts(data):
    """Real sentences and shuffled halves of them, so that scores are neither 0 nor 100."""
    from modules.files import read_jsonl
    from modules.rows import find_rows

    rows = read_jsonl(find_rows(data / "zeroshot" / "translation_en_fr"))
    sentences = [row["en"] for row in rows][:120]
    words = [sentence.split() for sentence in sentences]
    guesses = [" ".join(w[: len(w) // 2] + w[-3:]) for w in words]
    return guesses, [[s, t] for s, t in zip(sentences, sentences[1:] + sentences[:1], strict=True)]


def test_bleu_of_real_text_equals_sacrebleu(texts):
    guesses, references = texts
    for count in (1, 2):
        refs = [r[:count] for r in references]
        theirs = BLEU().corpus_score(guesses, [list(column) for column in zip(*refs, strict=True)])
        assert 5 < theirs.score < 95
        assert m.bleu(guesses, refs) == pytest.approx(theirs.score, rel=1e-9)


def test_rouge_of_real_text_equals_rouge_score(texts):
    from rouge_score.rouge_scorer import RougeScorer

    guesses, references = texts
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = [(r[0], g) for g, r in zip(guesses, references, strict=True)]
    ours = {"rouge1": m.rouge1, "rouge2": m.rouge2, "rougeL": m.rouge_l}
    for kind, metric in ours.items():
        theirs = [scorer.score(r, g)[kind].fmeasure for r, g in pairs]
        assert 0 < np.mean(theirs) < 1
        single = [r[:1] for r in references]
        assert metric(guesses, single) == pytest.approx(np.mean(theirs), rel=1e-12)
        assert [metric([g], [s]) for g, s in zip(guesses, single, strict=True)] == theirs


def test_rouge_equals_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    hyp, refs = "the cats were running home", ["a cat runs home", "dogs stayed"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    best = {
        kind: max(scorer.score(r, hyp)[kind].fmeasure for r in refs)
        for kind in ("rouge1", "rouge2", "rougeL")
    }
    assert m.rouge1([hyp], [refs]) == pytest.approx(best["rouge1"])
    assert m.rouge2([hyp], [refs]) == pytest.approx(best["rouge2"])
    assert m.rouge_l([hyp], [refs]) == pytest.approx(best["rougeL"])
    assert m.rouge_average([hyp], [refs]) == pytest.approx(sum(best.values()) / 3)
    assert m.rouge1([""], [refs]) == 0


@pytest.mark.parametrize(
    ("answer", "references", "right"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1),
        ("an apple", ["Apple."], 1),
        ("apples", ["apple"], 0),
        ("", ["the"], 1),
        ("b", ["a", "B"], 1),
    ],
)
def test_exact_match_normalises_as_squad(answer, references, right):
    assert m.exact_match([answer], [references]) == right


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("the cat sat", "cat sat", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("", "", 1.0),
        ("the", "a", 1.0),
        ("x", "", 0.0),
        ("red house", "house blue big", 0.4),
    ],
)
def test_token_f1(answer, reference, f1):
    assert m.token_f1(answer, reference) == pytest.approx(f1)


def test_coqa_leaves_one_answer_out_in_turn():
    """By hand: f1 with [a, a b, c] is [1, 2/3, 0]; maxima without each: 2/3, 1, 1."""
    assert m.coqa_f1(["x"], [["x", "x y", "z"]]) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert m.coqa_f1(["x"], [["x y"]]) == pytest.approx(2 / 3)


def test_the_bootstrap_interval_is_that_of_scipy():
    values = random.exponential(1, 300)
    low, high = m.interval(m.mean, values.tolist(), [1] * 300, samples=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.01)
    assert high == pytest.approx(theirs.high, abs=0.01)


def test_the_bootstrap_is_seeded_and_covers_plain_functions():
    x, y = random.normal(size=40).tolist(), random.normal(size=40).tolist()
    assert m.interval(m.pearson, x, y) == m.interval(m.pearson, x, y)
    assert m.interval(m.pearson, x, y) != m.interval(m.pearson, x, y, seed=1)
    low, high = m.interval(m.spearman, x, y, samples=200)
    assert low < m.spearman(x, y) < high


def test_the_bootstrap_of_bleu_brackets_it():
    refs = [[f"the number {i} is here today"] for i in range(30)]
    hyps = [f"the number {i} is {'here' if i % 2 else 'gone'} today" for i in range(30)]
    low, high = m.interval(m.bleu, hyps, refs, samples=200)
    assert low < m.bleu(hyps, refs) < high


def test_nothing_is_not_scored():
    with pytest.raises(ValueError, match="0 predictions"):
        m.accuracy([], [])
    with pytest.raises(ValueError, match="1 predictions for 2"):
        m.accuracy([1], [1, 2])


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("One. Two! Three? Four.", 3, "One. Two! Three?"),
        (' He said "stop." Then he left.', 1, 'He said "stop."'),
        ("no end", 3, "no end"),
        ("a line\nanother line", 1, "a line"),
        ("", 3, ""),
    ],
)
def test_first_sentences(text, count, expected):
    assert m.first_sentences(text, count) == expected
