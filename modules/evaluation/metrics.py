"""The scores of both papers, each a function of sums over items.

A metric is called as metric(predictions, references). Because each one is computed from per-item
statistics that add up, a bootstrap of it is one matrix product (`interval`).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.task import Metric

Array = NDArray[np.float64]
PUNCTUATION = str.maketrans("", "", string.punctuation)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|\n+")


@dataclass(frozen=True)
class SumMetric:
    """A metric that is `combine` of the sums of `statistics` over items."""

    statistics: Callable[[Sequence[Any], Sequence[Any]], Array]  # -> (n, k)
    combine: Callable[[Array], Array]  # (b, k) sums -> (b,) values

    def __call__(self, predictions: Sequence[Any], references: Sequence[Any]) -> float:
        """Return the score of all items together."""
        check_lengths(predictions, references)
        return float(self.combine(self.statistics(predictions, references).sum(0)[None])[0])


def check_lengths(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Refuse to score nothing, or unequal numbers of predictions and references."""
    if not len(predictions) or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")


def interval(
    metric: Metric,
    predictions: Sequence[Any],
    references: Sequence[Any],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a metric over items (percentile method)."""
    check_lengths(predictions, references)
    n, random = len(predictions), np.random.default_rng(seed)
    if isinstance(metric, SumMetric):
        statistics = metric.statistics(predictions, references)  # (n, k)
        values = np.concatenate(
            [
                metric.combine(random.multinomial(n, np.full(n, 1 / n), size) @ statistics)
                for size in chunks(samples, max(1, 2**22 // n))  # at most 32 MB of weights
            ]
        )
    else:  # ranks and the like: no sums to resample
        picks = random.integers(0, n, (samples, n))
        values = np.array(
            [metric([predictions[i] for i in p], [references[i] for i in p]) for p in picks]
        )
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def chunks(total: int, size: int) -> list[int]:
    """Split a number into pieces of at most `size`."""
    return [min(size, total - start) for start in range(0, total, size)]


def ratio(sums: Array) -> Array:
    """Return first sum / second sum."""
    return sums[:, 0] / sums[:, 1]


def safe_ratio(top: Array, bottom: Array) -> Array:
    """Return top / bottom, 0 where bottom is 0 (scikit-learn's zero_division=0)."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def per_item(values: Sequence[float]) -> Array:
    """Return (value, 1) per item, so that `ratio` of the sums is the mean."""
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], 1)


mean = SumMetric(lambda predictions, _: per_item(predictions), ratio)
"""Mean of the predictions, which are numbers already; references are not looked at."""


def binary_counts(predictions: Sequence[int], references: Sequence[int]) -> Array:
    """Return (true positive, false positive, false negative) per item, class 1 being positive."""
    p, r = np.asarray(predictions) == 1, np.asarray(references) == 1
    return np.stack([p & r, p & ~r, ~p & r], 1).astype(np.float64)


f1 = SumMetric(binary_counts, lambda s: safe_ratio(2 * s[:, 0], 2 * s[:, 0] + s[:, 1] + s[:, 2]))
"""F1 of class 1: MRPC and QQP (GPT-1, Table 4)."""


def confusion_counts(predictions: Sequence[int], references: Sequence[int]) -> Array:
    """Return each item's one cell of the confusion matrix, flattened."""
    labels = sorted(set(predictions) | set(references))
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(predictions), len(labels), len(labels)))
    for item, (p, r) in enumerate(zip(predictions, references, strict=True)):
        counts[item, index[r], index[p]] = 1
    return counts.reshape(len(predictions), -1)


def matthews_of_counts(sums: Array) -> Array:
    """Return Matthews' correlation of flattened confusion matrices (Gorodkin's R_K)."""
    size = math.isqrt(sums.shape[1])
    matrix = sums.reshape(-1, size, size)
    n, right = matrix.sum((1, 2)), np.trace(matrix, axis1=1, axis2=2)
    true, predicted = matrix.sum(2), matrix.sum(1)  # (b, size)
    top = right * n - (true * predicted).sum(1)
    bottom = (n**2 - (predicted**2).sum(1)) * (n**2 - (true**2).sum(1))
    return safe_ratio(top, np.sqrt(bottom))


matthews = SumMetric(confusion_counts, matthews_of_counts)
"""Matthews' correlation: CoLA (GPT-1, Table 4)."""


def moments(predictions: Sequence[float], references: Sequence[float]) -> Array:
    """Return (1, x, y, xx, yy, xy) per item, both centred first for numerical safety."""
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)


def pearson_of_moments(sums: Array) -> Array:
    """Return Pearson's correlation, 0 where one side is constant."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0)
    return safe_ratio(xy - x * y / n, np.sqrt(spread)).clip(-1, 1)  # 1 + 2e-16 is rounding


pearson = SumMetric(moments, pearson_of_moments)
"""Pearson's correlation: STS-B (GPT-1, Table 4)."""


def spearman(predictions: Sequence[float], references: Sequence[float]) -> float:
    """Return Spearman's rank correlation (ties get their mean rank), 0 where a side is constant."""
    return pearson(mean_ranks(predictions), mean_ranks(references))


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Return 1-based ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return [float(rank) for rank in (ends - (counts - 1) / 2)[inverse]]


def two_columns(predictions: Sequence[float], references: Sequence[float]) -> Array:
    """Return (prediction, reference) per item."""
    return np.stack([np.asarray(predictions, np.float64), np.asarray(references, np.float64)], 1)


perplexity = SumMetric(two_columns, lambda sums: np.exp(ratio(sums)))
"""exp(total negative log-likelihood in nats / total canonical units); GPT-2, section 3.1."""

bits_per_byte = SumMetric(two_columns, lambda sums: ratio(sums) / math.log(2))
"""Total negative log-likelihood in bits / bytes (or characters, text8)."""


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and articles, squeeze spaces (SQuAD's and CoQA's script)."""
    text = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the normalised answer is one of the references."""
    return float(normalize_answer(prediction) in {normalize_answer(r) for r in references})


def token_f1(prediction: str, reference: str) -> float:
    """Return the F1 of normalised tokens; two empty answers agree (official SQuAD 2.0 script)."""
    p, r = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not p or not r:
        return float(p == r)
    common = sum((Counter(p) & Counter(r)).values())
    return 2 * common / (len(p) + len(r)) if common else 0.0


def leave_one_out(
    score: Callable[[str, str], float], prediction: str, references: Sequence[str]
) -> float:
    """Average the best match over all subsets that leave one answer out (official CoQA script)."""
    values = [score(prediction, r) for r in references]
    if len(values) == 1:
        return values[0]
    return sum(max(values[:i] + values[i + 1 :]) for i in range(len(values))) / len(values)


def of_items(score: Callable[[Any, Any], float]) -> SumMetric:
    """Return the metric that is the mean of a score per item."""
    return SumMetric(lambda p, r: per_item([score(a, b) for a, b in zip(p, r, strict=True)]), ratio)


accuracy = of_items(lambda prediction, reference: float(prediction == reference))
exact_match = of_items(exact)
coqa_f1 = of_items(lambda p, refs: leave_one_out(token_f1, p, refs))
coqa_exact_match = of_items(lambda p, refs: leave_one_out(lambda a, b: exact(a, [b]), p, refs))


def rouge_of(*kinds: str) -> SumMetric:
    """Return the mean F1 over these ROUGE kinds, the best reference counting (rouge-score)."""

    def score(prediction: str, references: Sequence[str]) -> float:
        found = [rouge_scores(prediction, reference) for reference in references]
        return sum(max(f[kind] for f in found) for kind in kinds) / len(kinds)

    return of_items(score)


@lru_cache(maxsize=4096)  # four metrics and an interval look at the same texts
def rouge_scores(prediction: str, reference: str) -> dict[str, float]:
    """Return ROUGE-1, -2 and -L F1 of one summary, with Porter stemming."""
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: seconds

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    return {kind: s.fmeasure for kind, s in scorer.score(reference, prediction).items()}


rouge1, rouge2, rouge_l = rouge_of("rouge1"), rouge_of("rouge2"), rouge_of("rougeL")
rouge_average = rouge_of("rouge1", "rouge2", "rougeL")
"""Mean of the three: the last column of GPT-2's Table 4."""

BLEU_ORDER = 4


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """Return matched and all n-grams by order, then both lengths, per sentence (sacrebleu)."""
    from sacrebleu.metrics import BLEU

    bleu, rows = BLEU(), []
    for prediction, refs in zip(predictions, references, strict=True):
        s = bleu.corpus_score([prediction], [[r] for r in refs])
        rows.append([*s.counts, *s.totals, s.sys_len, s.ref_len])
    return np.array(rows, dtype=np.float64)


def bleu_of_counts(sums: Array) -> Array:
    """Return corpus BLEU (0 to 100) of summed counts."""
    from sacrebleu.metrics import BLEU

    return np.array(
        [
            BLEU.compute_bleu(
                [int(x) for x in s[:BLEU_ORDER]],
                [int(x) for x in s[BLEU_ORDER : 2 * BLEU_ORDER]],
                int(s[-2]),
                int(s[-1]),
                smooth_method="exp",  # BLEU()'s default
            ).score
            for s in np.rint(sums)
        ]
    )


bleu = SumMetric(bleu_counts, bleu_of_counts)
"""Corpus BLEU, sacrebleu's defaults; report it with `bleu_signature`."""


def bleu_signature() -> str:
    """Return sacrebleu's signature of the settings in use."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])  # the signature holds the number of references seen
    return str(metric.get_signature())


def first_sentences(text: str, count: int) -> str:
    """Return the first sentences of a text: up to . ! ? (and closing quotes) or a line end."""
    sentences = [s.strip() for s in split_sentences(text.strip())]
    return " ".join([s for s in sentences if s][:count])


def split_sentences(text: str) -> list[str]:
    """Split after sentence-ending punctuation followed by space, and at line ends."""
    ends = [m.end() for m in SENTENCE_END.finditer(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
