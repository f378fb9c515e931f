"""The baseline of GPT-1's ablation: a single-layer LSTM of 2048 units (GPT-1 paper, section 5).

The same interface as the GPT: `forward` with or without a cache, tied logits, the shared loss.
B rows, T positions, E embedding features, U units, C features that come out.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from modules.model.base import Decoder, grown
from modules.model.config import LSTMConfig
from modules.model.packed import Packed


class State:
    """What each row remembers: the hidden and the cell state."""

    def __init__(self, hidden: Tensor, cell: Tensor, lengths: list[int]) -> None:
        self.hidden, self.cell = hidden, cell  # (1, B, U) each
        self.lengths = lengths  # tokens read, per row

    @property
    def full(self) -> bool:
        """Never: it remembers a row of any length in the same room."""
        return False

    def peek(self) -> "State":
        """Return a state to read on with; this one stays as it is."""
        return State(self.hidden, self.cell, list(self.lengths))

    def take(self, rows: list[int]) -> "State":
        """Return the state of these rows, in this order; a row may be repeated."""
        index = torch.tensor(rows, device=self.hidden.device, dtype=torch.int64)
        lengths = [self.lengths[i] for i in rows]
        return State(self.hidden[:, index], self.cell[:, index], lengths)

    @staticmethod
    def join(states: "list[State]") -> "State":
        """Return one state of the rows of all."""
        hidden, cell = zip(*((state.hidden, state.cell) for state in states), strict=True)
        lengths = [length for state in states for length in state.lengths]
        return State(torch.cat(hidden, 1), torch.cat(cell, 1), lengths)


class LSTM(Decoder):
    """Token embedding, one recurrent layer, and a projection back to the embedding where tied."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config: LSTMConfig = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.embd_dropout)
        self.lstm = nn.LSTM(config.n_embd, config.n_units, batch_first=True)
        self.resid = nn.Dropout(config.resid_dropout)
        self.c_proj: nn.Module = nn.Identity()
        self.lm_head: nn.Embedding | None = None
        if config.tied:
            self.c_proj = nn.Linear(config.n_units, config.n_embd)
        else:
            self.lm_head = nn.Embedding(config.vocab_size, config.n_units)
        self.init_weights()

    @property
    def output_matrix(self) -> Tensor:
        """The matrix (V, C) that turns features into logits."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: N(0, 0.02), biases 0; the forget gates' bias is 1.

        The paper does not say; a forget bias of 1 is the usual choice (Jozefowicz et al. 2015).
        """
        for name, parameter in self.named_parameters():
            if "bias" in name:
                parameter.zero_()
            else:
                parameter.normal_(0, self.config.init_std, generator=generator)
        units = self.config.n_units
        self.lstm.get_parameter("bias_ih_l0")[units : 2 * units] = (
            1.0  # gates: input, forget, cell, output
        )

    def forward(
        self,
        tokens: Tensor,
        cache: State | None = None,
        lengths: list[int] | None = None,
        packed: Packed | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the features (B, T, C) of tokens (B, T) int64; see GPT.forward."""
        if packed is not None:  # each sequence by itself
            features = self(packed.tokens[packed.slots].flatten(0, 1))  # (B*K, T, C)
            places = packed.places if at is None else packed.places[at]
            return features.flatten(0, 1)[None, places]
        if tokens.shape[1] > self.config.n_positions:
            limit = self.config.n_positions
            raise ValueError(f"{tokens.shape[1]} tokens a row; the model has {limit} positions")
        x = self.drop(self.wte(tokens))  # (B, T, E)
        if x.device.type == "cpu":  # oneDNN has no bfloat16 LSTM on processors without bfloat16
            with torch.autocast("cpu", enabled=False):
                y = self._recur(x, cache, lengths)
        else:
            y = self._recur(x, cache, lengths)
        return self.c_proj(self.resid(y))  # (B, T, C)

    def _recur(self, x: Tensor, cache: State | None, lengths: list[int] | None) -> Tensor:
        """Return the units (B, T, U) of x (B, T, E), going on from the cache where there is one."""
        n = x.shape[1]
        if cache is None:
            return self.lstm(x)[0]
        lengths = lengths if lengths is not None else [n] * len(x)
        packed = pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        old = (cache.hidden.to(x.dtype), cache.cell.to(x.dtype))
        out, (cache.hidden, cache.cell) = self.lstm(packed, old)
        cache.lengths = [a + b for a, b in zip(cache.lengths, lengths, strict=True)]
        return pad_packed_sequence(out, batch_first=True, total_length=n)[0]

    @torch.no_grad()
    def resize(self, n_new: int, generator: torch.Generator | None = None) -> None:
        """Add `n_new` tokens after the vocabulary, N(0, 0.02)."""
        super().resize(n_new, generator)
        if self.lm_head is not None:
            self.lm_head = grown(self.lm_head, n_new, generator)

    def new_cache(
        self,
        batch: int,
        length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return the state of `batch` rows before their first token (any `length` fits)."""
        zeros = torch.zeros(
            (1, batch, self.config.n_units),
            device=device or self.device,
            dtype=dtype or self.wte.weight.dtype,
        )
        return State(zeros, zeros.clone(), [0] * batch)
