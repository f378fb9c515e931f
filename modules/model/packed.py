"""Sequences one after another without padding, prefixes that several share held once.

What fine-tuning reads: B examples of K sequences become N tokens in one row, and all work but
attention's is on these. Attention sees rows: a sequence, or an example whose answers share their
beginning (GPT-1 paper, Figure 1: S z q D a_k E for each k) as a prefix and K branches. A token
attends to what came before it in its own sequence, so features, losses and gradients are those of
the sequences alone.
B examples, K sequences each, T positions, N packed tokens, R rows, L tokens of the longest row.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

SHARED = 8  # tokens; shorter common beginnings are not worth their branches


@dataclass(frozen=True)
class Packed:
    """N tokens of B x K sequences, and where each stands."""

    tokens: Tensor  # (N,)
    positions: Tensor  # (N,) in their sequence
    slots: Tensor  # (B, K, T): which of the N tokens is there; anything where there is padding
    places: Tensor  # (N,): where in the flat (B * K * T) each token comes from
    parents: Tensor  # (N,): the token before each in its sequence; anything for a first one
    extract: Tensor  # (B, K), -1: no such sequence
    starts: Tensor  # (R + 1,): the rows' places among the N
    prefix: Tensor  # (R,): tokens at a row's beginning that all of its branches see
    branch: Tensor  # (N,): where in its row a token's branch starts; 0 without branches

    @classmethod
    def of_rows(
        cls, tokens: Tensor, positions: Tensor, *, starts: Tensor, prefix: Tensor, branch: Tensor
    ) -> Self:
        """Return what to read for the features alone: of no example, so no slots."""
        none = starts.new_empty(0, 0, int(positions.max()) + 1)
        places = torch.arange(len(tokens), device=tokens.device)
        extract = none[..., 0]
        return cls(tokens, positions, none, places, places - 1, extract, starts, prefix, branch)

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what attention's own kernel (modules/kernels/attention.cpp) has to know."""
        return self.starts, self.prefix, self.branch

    @property
    def ends(self) -> Tensor:
        """Return which of the N tokens is each sequence's extract token (B, K)."""
        return self.slots.gather(2, self.extract.clamp(min=0)[..., None]).squeeze(2)

    @cached_property
    def padding(self) -> Tensor:
        """Return which token stands at each place (R, L) of the padded rows."""
        lengths = self.starts.diff()  # (R,)
        steps = torch.arange(int(lengths.max()), device=lengths.device)  # (L,)
        return self.starts[:-1, None] + steps.minimum(lengths[:, None] - 1)

    @property
    def even(self) -> bool:
        """Whether all rows are of one length, so that no padding is between them."""
        return self.padding.numel() == len(self.positions)

    @cached_property
    def places_in_rows(self) -> Tensor:
        """Return where in the flat (R * L) padded rows each of the N tokens stands."""
        row = torch.repeat_interleave(self.starts.diff())  # (N,)
        steps = torch.arange(len(row), device=row.device) - self.starts[row]
        return row * self.padding.shape[1] + steps

    @cached_property
    def mask(self) -> Tensor | None:
        """Return who sees whom (R, 1, L, L) in the padded rows; None: all that came before."""
        return self._seen(self.padding) if self.branch.any() else None

    def queries(self, at: Tensor) -> "Queries":
        """Return the tokens `at` (P,) as rows of queries."""
        row = torch.repeat_interleave(self.starts.diff())[at]  # (P,)
        count = row.bincount(minlength=len(self.prefix))  # (R,)
        order = row.argsort(stable=True)
        rank = torch.empty_like(row)  # among its row's queries
        rank[order] = (
            torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row[order]]
        )
        tokens = (self.starts[1:, None] - 1).repeat(1, int(count.max()))  # (R, Q)
        tokens[row, rank] = at
        return Queries(tokens, self._seen(tokens), row * tokens.shape[1] + rank)

    def _seen(self, queries: Tensor) -> Tensor:
        """Return which of a row's L tokens each of its queries (R, Q) sees (R, 1, Q, L)."""
        step = torch.arange(self.padding.shape[1], device=queries.device)
        own = self.branch[queries][..., None]  # (R, Q, 1)
        other = (step >= self.prefix[:, None, None]) & (step < own)  # (R, Q, L)
        until = (queries - self.starts[:-1, None])[..., None]  # (R, Q, 1)
        return ((step <= until) & ~other)[:, None]

    def padded(self, x: Tensor) -> Tensor:
        """Return packed values (N, ...) as rows (R, L, ...)."""
        if self.even:
            return x.unflatten(0, self.padding.shape)
        return x.index_select(0, self.padding.flatten()).unflatten(0, self.padding.shape)

    def packed(self, x: Tensor) -> Tensor:
        """Return rows (R, L, ...) as packed values (N, ...)."""
        if self.even:
            return x.flatten(0, 1)
        return x.flatten(0, 1).index_select(0, self.places_in_rows)

    @cached_property
    def segments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return prefixes and branches as segments, for attention over lengths of any kind.

        Their ends among the queries (S + 1,), among the keys (S + 1,), and each key's token: a
        branch has its prefix's keys before its own.
        """
        row = torch.repeat_interleave(self.starts.diff())  # (N,)
        first = self.branch.diff(prepend=self.branch.new_full((1,), -1)) != 0
        first[self.starts[:-1]] = True
        begins = first.nonzero().squeeze(1)  # (S,)
        own = begins.diff(append=begins.new_tensor([len(row)]))
        before = torch.where(self.branch[begins] > 0, self.prefix[row[begins]], 0)
        queries, keys = (torch.cat([n.new_zeros(1), n.cumsum(0)]) for n in (own, own + before))
        segment = torch.repeat_interleave(own + before)
        step = torch.arange(len(segment), device=row.device) - keys[segment]
        beyond = begins[segment] - before[segment]
        index = torch.where(step < before[segment], self.starts[row[begins]][segment], beyond)
        return queries.to(torch.int32), keys.to(torch.int32), index + step

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return causal attention (N, H, D) of packed q, k, v on a GPU, in 16 bits."""
        queries, keys, index = self.segments
        longest = int(queries.diff().max()), int(keys.diff().max())
        k, v = k.index_select(0, index), v.index_select(0, index)
        # Flash attention's causal window ends with the last key: a branch sees all of its prefix.
        from torch.nn.attention.varlen import varlen_attn  # imports torch's compiler: a second

        out = varlen_attn(q, k, v, queries, keys, *longest, window_size=(-1, 0))
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class Queries:
    """A few of the N tokens, whose features alone are wanted, and what each sees."""

    tokens: Tensor  # (R, Q): which of the N; a row with fewer has its last token again
    mask: Tensor  # (R, 1, Q, L)
    places: Tensor  # (P,): where in the flat (R * Q) each wanted one is


def pack(tokens: Tensor, extract: Tensor, *, share: bool) -> Packed:
    """Pack tokens (B, K, T) whose last one is at `extract` (B, K); -1: no such sequence.

    Args:
        share: hold what all sequences of an example have in common at their beginning once.
    """
    b, k, t = tokens.shape
    step = torch.arange(t, device=tokens.device)
    real = step <= extract[..., None]  # (B, K, T)
    prefix = common(tokens, extract) if share else extract.new_zeros(b)  # (B,)
    again = (step < prefix[:, None])[:, None].expand(b, k, t).clone()  # (B, K, T)
    again[:, 0] = False  # the first sequence holds the prefix
    kept = real & ~again
    slots = kept.flatten().cumsum(0).view(b, k, t) - 1
    slots = torch.where(again, slots[:, :1], slots)
    places = kept.flatten().nonzero().squeeze(1)  # (N,)
    positions = places % t
    starts = (positions == 0).nonzero().squeeze(1)  # (R,)
    example = places // (k * t)  # (N,)
    own = slots.gather(2, prefix[:, None, None].expand(b, k, 1)) - slots[:, :1, :1]  # (B, K, 1)
    own = own.expand(b, k, t).flatten()[places]
    within = prefix[example]  # (N,)
    return Packed(
        tokens=tokens.flatten()[places],
        positions=positions,
        slots=slots,
        places=places,
        parents=slots.flatten()[places - 1],
        extract=extract,
        starts=torch.cat([starts, starts.new_tensor([len(places)])]),
        prefix=within[starts],
        branch=torch.where((within > 0) & (positions >= within), own, 0),
    )


def common(tokens: Tensor, extract: Tensor) -> Tensor:
    """Return how many tokens (B,) all sequences of an example begin with, 0 for a few.

    Each keeps a token of its own; the sequences that are not there have no say.
    """
    absent = extract < 0  # (B, K)
    same = (tokens == tokens[:, :1]) | absent[..., None]
    shortest = extract.masked_fill(absent, tokens.shape[2]).amin(1)  # (B,)
    count = same.all(1).cumprod(1).sum(1).minimum(shortest)
    several = (~absent).sum(1) > 1
    return torch.where(several & (count >= SHARED), count, 0)
