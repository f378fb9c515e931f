"""Fine-tuning heads: a linear layer on the extract token's final state (GPT-1 paper, section 3.2).

B examples, K sequences per example, T positions, C features. The sequences of one example are:
one text or pair (K = 1), both orders of a pair (similarity, K = 2), or one per answer.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from modules.config import Config
from modules.model.base import Decoder, wide

ABSENT = -1  # extract position of a sequence that an example does not have (fewer answers)


class HeadConfig(Config):
    """What the head reads and how many numbers it gives."""

    format: Literal["classification", "entailment", "similarity", "multiple_choice"]
    """How an example's sequences become one decision (GPT-1 paper, Figure 1)."""
    n_classes: int = Field(2, ge=1)
    """Logits per example; multiple choice has one per answer instead and ignores this."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the state the head reads (GPT-1 paper, section 4.1)."""
    pair: Literal["sum", "concat"] = "sum"
    """Similarity: add the states of the two orders (section 3.3), or put them side by side."""
    scale: tuple[float, float] | None = None
    """The label is a score between these (STS-B: 0 and 5)."""
    score_loss: Literal["classes", "squared"] = "classes"
    """Scores as weights on whole numbers (n_classes of them), or as one number (regression)."""

    @property
    def outputs(self) -> int:
        """Numbers the linear layer gives."""
        regression = self.scale is not None and self.score_loss == "squared"
        return 1 if regression or self.format == "multiple_choice" else self.n_classes


class TaskModel(nn.Module):
    """A decoder and a head: what fine-tuning trains."""

    def __init__(self, decoder: Decoder, config: HeadConfig) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        wide = config.format == "similarity" and config.pair == "concat"
        self.head = nn.Linear(decoder.width * (2 if wide else 1), config.outputs)
        self.init_head()

    @torch.no_grad()
    def init_head(self, generator: torch.Generator | None = None) -> None:
        """Draw the head's weights, N(0, 0.02), bias 0 (gpt1.md 4.3)."""
        self.head.weight.normal_(0, 0.02, generator=generator)
        self.head.bias.zero_()

    def forward(self, tokens: Tensor, extract: Tensor) -> Tensor:
        """Return logits (B, classes), or (B, K) for multiple choice.

        Args:
            tokens: (B, K, T) int64, padded on the right with any id.
            extract: (B, K) int64, where the extract token is; -1 for a sequence that is not there
                (multiple choice with fewer answers: its logit is -inf).
        """
        return self.classify(self.read(tokens), extract)

    def read(self, tokens: Tensor) -> Tensor:
        """Return the decoder's features (B, K, T, C)."""
        return self.decoder(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])

    def states(self, tokens: Tensor, extract: Tensor) -> Tensor:
        """Return the states (B, K, C) that the head reads."""
        return self._ends(self.read(tokens), extract)

    def classify(self, hidden: Tensor, extract: Tensor) -> Tensor:
        """Return the head's logits from features (B, K, T, C)."""
        return self.decide(self._ends(hidden, extract), extract)

    def _ends(self, hidden: Tensor, extract: Tensor) -> Tensor:
        """Return the features (B, K, C) at the extract tokens."""
        index = extract.clamp(min=0)[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
        return hidden.gather(2, index).squeeze(2)

    def decide(self, states: Tensor, extract: Tensor) -> Tensor:
        """Return the head's logits from states (B, K, C)."""
        states = self._drop(states)
        if self.config.format == "multiple_choice":
            logits = self.head(states).squeeze(-1)  # (B, K)
            return logits.masked_fill(extract == ABSENT, float("-inf"))
        joined = states.flatten(1) if self.config.pair == "concat" else states.sum(1)
        return self.head(joined)  # (B, classes)

    def losses(
        self,
        tokens: Tensor,
        extract: Tensor,
        labels: Tensor,
        *,
        lm_weight: float = 0.5,
        lm_average: str = "sequence",
        lm_matrix: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (total, task, LM, logits) in one reading: L2 + lambda * L1 (paper, equation 5).

        Args:
            tokens: (B, K, T) int64.
            extract: (B, K) int64.
            labels: (B,) int64, (B, classes) probabilities, or (B,) scores where there is a scale.
            lm_weight: lambda, 0.5 in section 4.1; at 0 the LM loss is left out.
            lm_average: the LM loss's mean is over each "sequence" first, or over each "token".
            lm_matrix: (V, C), what the LM softmax runs over; None: the output matrix.
        """
        hidden = self.read(tokens)  # (B, K, T, C)
        logits = self.classify(hidden, extract)
        logits = logits.to(wide(logits.dtype))
        task = self.task_loss(logits, labels)
        if not lm_weight:
            return task, task, torch.zeros_like(task), logits
        lm = self.lm_loss(hidden, tokens, extract, average=lm_average, matrix=lm_matrix)
        return task + lm_weight * lm, task, lm, logits

    def task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, or squared error, of logits (B, classes)."""
        logits = logits.to(wide(logits.dtype))
        if self.config.scale is not None:
            scores = labels.to(logits.dtype)
            if self.config.score_loss == "squared":
                return F.mse_loss(logits.squeeze(1), scores)
            labels = spread_scores(scores - self.config.scale[0], self.config.n_classes)
        targets = labels.to(logits.dtype) if labels.is_floating_point() else labels
        return F.cross_entropy(logits, targets)

    def lm_loss(
        self,
        hidden: Tensor,
        tokens: Tensor,
        extract: Tensor,
        *,
        average: str = "sequence",
        matrix: Tensor | None = None,
    ) -> Tensor:
        """Return the auxiliary LM loss as the release computes it (gpt1.md 4.2).

        The mean over each sequence's targets (all but its first token, delimiter and extract
        included, padding not), then the mean over sequences: a short one weighs as much. With
        average = "token" the mean over all targets at once.
        """
        ends = extract.flatten()  # (B*K,); also the number of targets
        steps = torch.arange(tokens.shape[-1] - 1, device=tokens.device)  # (T-1,)
        real = (steps < ends[:, None]).to(wide(hidden.dtype))  # (B*K, T-1)
        n_sequences = (ends > 0).sum().clamp(min=1)
        share = ends.clamp(min=1)[:, None] * n_sequences
        weights = real / (real.sum() if average == "token" else share)
        return self.decoder.weighted_loss(
            hidden.flatten(0, 1)[:, :-1], tokens.flatten(0, 1)[:, 1:], weights, matrix
        )

    def _drop(self, states: Tensor) -> Tensor:
        """Drop features of (B, K, C): one mask for all sequences of an example (gpt1.md 4.3)."""
        mask = F.dropout(torch.ones_like(states[:, :1]), self.config.dropout, self.training)
        return states * mask


def spread_scores(scores: Tensor, n_classes: int = 6) -> Tensor:
    """Return each score's weights (B, classes) on its two neighbouring whole numbers.

    STS-B's label encoding in the release, scores from 0 to 5 (gpt1.md 4.6; Tai et al. 2015).
    """
    low = scores.floor().clamp(0, n_classes - 2).to(torch.int64)  # (B,)
    above = (scores - low).unsqueeze(1)  # (B, 1)
    weights = torch.zeros(len(scores), n_classes, dtype=scores.dtype, device=scores.device)
    weights.scatter_(1, low[:, None], 1 - above)
    return weights.scatter_(1, low[:, None] + 1, above)


def expected_score(logits: Tensor) -> Tensor:
    """Return the expected class index (B,) under the softmax of logits (B, classes)."""
    return logits.softmax(-1) @ torch.arange(
        logits.shape[-1], dtype=logits.dtype, device=logits.device
    )
