"""The sizes and choices of each decoder; free of torch, so that flows and forms load fast."""

from typing import Literal, Self

from pydantic import Field, model_validator

from modules.config import Config


class GPTConfig(Config):
    """The sizes and choices of one decoder; the defaults are GPT-2 small (GPT-2 paper, Table 2)."""

    architecture: Literal["gpt"] = "gpt"
    """Tells a checkpoint of this decoder from an LSTM's."""
    vocab_size: int = Field(50257, ge=2)
    """Token ids, end-of-text included (GPT-2 paper, section 2.3; GPT-1: 40,478)."""
    n_positions: int = Field(1024, ge=1)
    """Longest context in tokens (GPT-2 paper, section 2.3; GPT-1: 512)."""
    n_embd: int = Field(768, ge=1)
    """Features per position."""
    n_layer: int = Field(12, ge=1)
    """Blocks."""
    n_head: int = Field(12, ge=1)
    """Attention heads per block; 64 features each in all of the papers' models (XL has 25)."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each sub-block and at the end (GPT-2), or after each residual (GPT-1)."""
    embd_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the sum of token and position embedding (GPT-1: 0.1; GPT-2's release: none)."""
    attn_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention probabilities (GPT-1: 0.1; GPT-2's release: none)."""
    resid_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on each residual branch's output (GPT-1: 0.1; GPT-2's release: none)."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of new weights (GPT-1 paper, section 4.1)."""
    positions_std: float = Field(0.02, gt=0)
    """The same for the position embedding (OpenAI's GPT-2 code has 0.01, other ports 0.02)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self

    @property
    def n_params(self) -> int:
        """Parameters, embeddings included (the output layer is tied and counts once)."""
        return (self.vocab_size + self.n_positions) * self.n_embd + self.n_params_body

    @property
    def n_params_body(self) -> int:
        """Parameters that are not embeddings: the blocks, and ln_f where there is one."""
        c = self.n_embd
        return self.n_layer * (12 * c**2 + 13 * c) + (2 * c if self.norm == "pre" else 0)


class LSTMConfig(Config):
    """The sizes of the LSTM baseline."""

    architecture: Literal["lstm"] = "lstm"
    """Tells a checkpoint of this model from a GPT's."""
    vocab_size: int = Field(40478, ge=2)
    """Token ids, end-of-text included (GPT-1: 40,478)."""
    n_positions: int = Field(512, ge=1)
    """Longest context in tokens it is trained and asked with (GPT-1: 512)."""
    n_embd: int = Field(768, ge=1)
    """Features of a token; the paper does not give the LSTM's, so the Transformer's."""
    n_units: int = Field(2048, ge=1)
    """Units of the recurrent layer (GPT-1 paper, section 5)."""
    tied: bool = True
    """Project the units to n_embd and reuse the token embedding as output; else a matrix of its
    own."""
    embd_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the token embedding."""
    resid_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the recurrent layer's output."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of new weights (GPT-1 paper, section 4.1)."""

    @property
    def n_params(self) -> int:
        """Parameters, embeddings included."""
        out = 0 if self.tied else self.vocab_size * self.n_units
        return self.vocab_size * self.n_embd + out + self.n_params_body

    @property
    def n_params_body(self) -> int:
        """Parameters that are neither embedding nor output matrix."""
        gates = 4 * self.n_units * (self.n_embd + self.n_units + 2)
        return gates + (self.n_embd * (self.n_units + 1) if self.tied else 0)
