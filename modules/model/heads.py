"""Fine-tuning heads: a linear layer on the extract token's final state (GPT-1 paper, section 3.2).

Multiple choice may also look at how much likelier its document and question make an answer.
B examples, K sequences per example, T positions, C features. The sequences of one example are:
one text or pair (K = 1), both orders of a pair (similarity, K = 2), or one per answer.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from modules.config import Config
from modules.model.base import Decoder, wide
from modules.model.packed import Packed, pack

ABSENT = -1  # extract position of a sequence that an example does not have (fewer answers)
NATS = 10.0  # logit of a nat a token before training; with less, the head's noise is louder


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
    likelihood: bool = False
    """Multiple choice: to each answer's logit its gain in likelihood is added; see GainHead."""

    @model_validator(mode="after")
    def _likelihoods_are_of_answers(self) -> Self:
        if self.likelihood and self.format != "multiple_choice":
            raise ValueError(f"likelihood is for multiple_choice, not for {self.format}")
        return self

    @property
    def outputs(self) -> int:
        """Numbers the linear layer gives."""
        regression = self.scale is not None and self.score_loss == "squared"
        return 1 if regression or self.format == "multiple_choice" else self.n_classes


class GainHead(nn.Linear):
    """The head of answers with `likelihood`: a logit of the state, and of a nat of gain.

    An answer's gain is the mean over its tokens of log P(token | document, question, answer so far)
    - log P(token | answer so far). So GPT-3 chooses without training (Brown et al. 2020, section
    2.4); here the loss goes through it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        self.nats = nn.Parameter(torch.empty(1))


class TaskModel(nn.Module):
    """A decoder and a head: what fine-tuning trains."""

    def __init__(self, decoder: Decoder, config: HeadConfig) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        wide = config.format == "similarity" and config.pair == "concat"
        size = decoder.width * (2 if wide else 1)
        self.head = GainHead(size) if config.likelihood else nn.Linear(size, config.outputs)
        self.init_head()

    @torch.no_grad()
    def init_head(self, generator: torch.Generator | None = None) -> None:
        """Draw the head's weights, N(0, 0.02), bias 0 (gpt1.md 4.3)."""
        self.head.weight.normal_(0, 0.02, generator=generator)
        self.head.bias.zero_()
        if isinstance(self.head, GainHead):
            self.head.nats.fill_(NATS)

    def forward(self, tokens: Tensor, extract: Tensor) -> Tensor:
        """Return logits (B, classes), or (B, K) for multiple choice.

        Args:
            tokens: (B, K, T) int64, padded on the right with any id.
            extract: (B, K) int64, where the extract token is; -1 for a sequence that is not there
                (multiple choice with fewer answers: its logit is -inf).
        """
        packed = self.pack(tokens, extract)
        if not isinstance(self.head, GainHead):
            return self.decide(self._ends(packed), extract)
        hidden = self.read(packed)
        gain, _ = self._gain(hidden, packed, tokens)
        return self.decide(self._at_ends(hidden, packed), extract) + self.head.nats * gain

    def pack(self, tokens: Tensor, extract: Tensor) -> Packed:
        """Return the sequences without padding.

        Answers share their beginning unless dropout inside the decoder would then be drawn once
        for all of them instead of for each: another sample of the same distribution.
        """
        rates = [value for name, value in self.decoder.config if name.endswith("_dropout")]
        rates += [m.p for m in self.decoder.modules() if isinstance(m, nn.Dropout)]  # adapters'
        drawn = self.training and any(rates)
        share = self.config.format == "multiple_choice" and not drawn
        return pack(tokens, extract, share=share)

    def read(self, packed: Packed, at: Tensor | None = None) -> Tensor:
        """Return the decoder's features (N, C), or (P, C) at the tokens `at` (P,) alone."""
        features: Tensor = self.decoder(packed.tokens[None], packed=packed, at=at)
        return features[0]

    def _ends(self, packed: Packed) -> Tensor:
        """Return the features (B, K, C) at the extract tokens; the rest is not read to its end."""
        return self.read(packed, packed.ends.flatten()).unflatten(0, packed.ends.shape)

    def _at_ends(self, hidden: Tensor, packed: Packed) -> Tensor:
        """Return the same out of the features of all tokens (N, C)."""
        return hidden.index_select(0, packed.ends.flatten()).unflatten(0, packed.ends.shape)

    def states(self, tokens: Tensor, extract: Tensor) -> Tensor:
        """Return the states (B, K, C) that the head reads."""
        return self._ends(self.pack(tokens, extract))

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
        share: float = 1.0,
        lm_share: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (total, task, LM, logits) in one reading: L2 + lambda * L1 (paper, equation 5).

        Args:
            tokens: (B, K, T) int64.
            extract: (B, K) int64.
            labels: (B,) int64, (B, classes) probabilities, or (B,) scores where there is a scale.
            lm_weight: lambda, 0.5 in section 4.1; at 0 the LM loss is left out.
            lm_average: the LM loss's mean is over each "sequence" first, or over each "token".
            lm_matrix: (V, C), what the LM softmax runs over; None: the output matrix.
            share: a micro-batch's part of the step's task loss; the total has both parts, the two
                losses beside it are the micro-batch's own means.
            lm_share: the same of the LM loss.
        """
        packed = self.pack(tokens, extract)
        if lm_weight or isinstance(self.head, GainHead):
            hidden = self.read(packed)  # (N, C)
            states = self._at_ends(hidden, packed)
        else:
            states = self._ends(packed)
        logits = self.decide(states, packed.extract)
        if isinstance(self.head, GainHead):
            gain, onward = self._gain(hidden, packed, tokens)
            gain.requires_grad_()
            logits = logits + self.head.nats * gain
        logits = logits.to(wide(logits.dtype))
        task = self.task_loss(logits, labels)
        total = task * share
        if isinstance(self.head, GainHead) and torch.is_grad_enabled():
            (slope,) = torch.autograd.grad(total, gain, retain_graph=True)
            passed = onward(slope)
            total = total + (passed - passed.detach())  # a gradient, no loss of its own
        if not lm_weight:
            return total, task, torch.zeros_like(task), logits
        part = lm_weight * lm_share
        lm = self.lm_loss(hidden, packed, share=part, average=lm_average, matrix=lm_matrix)
        return total + lm, task, lm.detach() / part, logits

    def _gain(
        self, hidden: Tensor, packed: Packed, tokens: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return each answer's gain (B, K), in nats a token, and what takes its gradient on.

        Args:
            hidden: (N, C), of the packed tokens (B, K, T).
        """
        delimiter = self.decoder.config.vocab_size - 2  # start, delimiter, extract end it
        begin = (tokens == delimiter).to(torch.int8).argmax(-1)  # (B, K)
        alone, extract = without_context(tokens, packed.extract, begin)
        bare = self.pack(alone, extract)
        given, given_onward = self._likelihood(hidden, packed, begin)
        prior, prior_onward = self._likelihood(self.read(bare), bare, torch.ones_like(begin))
        return given - prior, lambda slope: given_onward(slope) + prior_onward(-slope)

    def _likelihood(
        self, hidden: Tensor, packed: Packed, begin: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the answers' mean log P (B, K) a token, a constant, and a loss with its gradient.

        The gradient goes the way of the LM loss, so logits are never held for a whole batch.

        Args:
            begin: (B, K), the delimiter before each answer.
        """
        step = torch.arange(packed.slots.shape[2], device=begin.device)
        real = (step > begin[..., None]) & (step < packed.extract[..., None])  # (B, K, T)
        count = real.sum(-1).clamp(min=1).flatten()
        owner = real.flatten(0, 1).nonzero()[:, 0]  # (n,), which of the B x K
        rows = packed.slots[real]
        before, targets = hidden.index_select(0, packed.parents[rows]), packed.tokens[rows]
        losses = self.decoder.token_losses(before, targets)
        sums = losses.new_zeros(len(count)).index_add_(0, owner, losses)

        def onward(slope: Tensor) -> Tensor:
            return self.decoder.weighted_loss(before, targets, (-slope.flatten() / count)[owner])

        return (-sums / count).view(begin.shape), onward

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
        packed: Packed,
        *,
        share: float = 1.0,
        average: str = "sequence",
        matrix: Tensor | None = None,
    ) -> Tensor:
        """Return the auxiliary LM loss as the release computes it (gpt1.md 4.2), times `share`.

        The mean over each sequence's targets (all but its first token, delimiter and extract
        included, padding not), then the mean over sequences: a short one weighs as much. With
        average = "token" the mean over all targets at once. A token that several sequences share
        has the sum of its weights in each.
        """
        ends = packed.extract[..., None]  # (B, K, 1); also the number of targets
        targets = packed.slots[..., 1:]  # (B, K, T-1)
        real = torch.arange(targets.shape[-1], device=ends.device) < ends
        count = ends.clamp(min=1) * (ends > 0).sum()
        count = real.sum() if average == "token" else count
        each = (share / count.to(wide(hidden.dtype))).expand(real.shape)
        weights = each.new_zeros(len(hidden)).index_add_(0, targets[real], each[real])
        rows = weights.nonzero().squeeze(1)  # a sequence's first token is no target
        before = hidden.index_select(0, packed.parents[rows])
        return self.decoder.weighted_loss(before, packed.tokens[rows], weights[rows], matrix)

    def _drop(self, states: Tensor) -> Tensor:
        """Drop features of (B, K, C): one mask for all sequences of an example (gpt1.md 4.3)."""
        mask = F.dropout(torch.ones_like(states[:, :1]), self.config.dropout, self.training)
        return states * mask


def without_context(tokens: Tensor, extract: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
    """Return S D answer E (B, K, T') and its extract (B, K), of S context D answer E.

    Args:
        begin: (B, K), where the delimiters D are.
    """
    short = torch.where(extract < 0, ABSENT, extract - begin + 1)
    step = torch.arange(int(short.max()) + 1, device=tokens.device)
    places = (begin[..., None] + step - 1).clamp(0, tokens.shape[2] - 1)
    return torch.where(step > 0, tokens.gather(2, places), tokens[..., :1]), short


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
