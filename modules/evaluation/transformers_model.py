"""Any causal language model of `transformers`, asked as ours are (the extra `harness` brings it).

Slower than our own decoder: there is no shared reading, and going on from a memory reads it again,
which is right for every architecture. Public GPT-1 and GPT-2 weights are better imported
(`textmill import`). B rows, T positions, C features, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass
class Memory:
    """The tokens that each row has read."""

    rows: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens read, per row."""
        return [len(row) for row in self.rows]

    @property
    def full(self) -> bool:
        """Never: it holds rows of any length."""
        return False

    @staticmethod
    def join(memories: "list[Memory]") -> "Memory":
        """Return one memory of the rows of all."""
        return Memory([row for memory in memories for row in memory.rows])

    def peek(self) -> "Memory":
        """Return a memory to read on with; this one stays as it is."""
        return Memory(list(self.rows))

    def take(self, rows: Sequence[int]) -> "Memory":
        """Return the memory of these rows, in this order."""
        return Memory([self.rows[i] for i in rows])


class TransformersModel(nn.Module):
    """A model of transformers with the interface of our decoders, for inference."""

    branching = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.head = model.base_model, model.get_output_embeddings()
        text = model.config.get_text_config()
        positions = next((n for name in POSITIONS if (n := getattr(text, name, None))), 2048)
        self.config = SimpleNamespace(n_positions=positions, vocab_size=self.head.weight.shape[0])
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.output_matrix.device

    @property
    def output_matrix(self) -> Tensor:
        """The matrix (V, C) that turns features into logits."""
        matrix: Tensor = self.head.weight
        return matrix

    @property
    def width(self) -> int:
        """Features per position."""
        return self.output_matrix.shape[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of features (..., C)."""
        found: Tensor = self.head(hidden)
        return found

    @torch.no_grad()
    def forward(
        self, tokens: Tensor, cache: Memory | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return the features (B, T, C) of tokens (B, T), after what the memory holds."""
        if cache is None:
            found: Tensor = self.model(tokens, use_cache=False).last_hidden_state
            return found
        new = tokens.shape[1]
        counts = [new] * len(tokens) if lengths is None else list(lengths)
        before = cache.lengths
        read = [old + row for old, row in zip(cache.rows, tokens.tolist(), strict=True)]
        longest = max(map(len, read))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in read])
        hidden = self(padded.to(tokens.device))  # (B, S, C)
        cache.rows = [row[: b + n] for row, b, n in zip(read, before, counts, strict=True)]
        return torch.stack([row[b : b + new] for row, b in zip(hidden, before, strict=True)])

    def new_cache(self, batch: int, length: int) -> Memory:
        """Return the memory of `batch` rows before their first token (any `length` fits)."""
        return Memory([[] for _ in range(batch)])


@dataclass(frozen=True)
class TransformersTokenizer:
    """A tokenizer of transformers with the interface of ours."""

    tokenizer: Any
    eot: int = field(init=False)

    def __post_init__(self) -> None:
        ends = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        object.__setattr__(self, "eot", next((i for i in ends if i is not None), 0))

    @property
    def n_vocab(self) -> int:
        """How many ids there are."""
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, special tokens left out."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of ids' text."""
        return self.decode(ids).encode()


def load_transformers(
    folder: Path, device: str = "cpu"
) -> tuple[TransformersModel, TransformersTokenizer]:
    """Return the model and tokenizer of a folder with config.json and safetensors.

    Raises:
        ValueError: transformers is not installed, or its logits are not its last features times
            its output matrix.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ValueError(
            f"{folder} is a model of transformers: pip install 'textmill[harness]' to ask it"
        ) from None

    whole: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    whole = whole.to(device).eval()
    model = TransformersModel(whole)
    probe = torch.arange(8, device=device)[None] % model.config.vocab_size
    with torch.no_grad():
        if not torch.allclose(whole(probe).logits, model.logits(model(probe)), atol=1e-3):
            kind = type(whole).__name__
            raise ValueError(f"{folder}: {kind} changes its logits after its output matrix")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, TransformersTokenizer(tokenizer)
