"""How a model is asked: what the flows' forms show (this file imports no torch)."""

from typing import Literal

from pydantic import Field

from modules.config import Config
from modules.task import Task

Precision = Literal["float32", "bfloat16"]
Convention = Literal["paper", "harness"]


class ZeroShotConfig(Config):
    """How much of a benchmark is asked, and how."""

    split: str | None = None
    """Split asked, of benchmarks that have splits; none: the one their paper reports."""
    shots: dict[str, int] = Field(default_factory=dict)
    """Examples before each prompt, by benchmark; those not named take their own number."""
    limit: int | None = Field(None, ge=1)
    """Items per benchmark and variant, evenly spread over it; none: all."""
    convention: Convention = "paper"
    """Where lm-evaluation-harness differs from the papers, whose way: harness reads running text
    in windows that do not overlap, cuts each long candidate for itself, takes the answer with the
    highest sum of log-probabilities, not the highest mean, and filters no stop words."""
    stride: int | None = Field(None, ge=1)
    """Tokens by which perplexity's windows advance; none: half of the model's positions (all of
    them by the harness's convention). Smaller is slower and gives lower perplexity (a GPT-2 author
    quotes 32)."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens read at once, padding included; none: 1,024 on a CPU (what its cache holds: 36 %
    faster than 4,096), 16,384 elsewhere. Changes memory and speed, not the scores."""
    batch_size: int = Field(32, ge=1)
    """Prompts continued at once; the same."""
    precision: Precision = "float32"
    """Type of the model's products; logits are float32 always."""
    device: str = "cpu"
    """Where the model runs, as PyTorch names it."""
    seed: int = 0
    """Seed of sampled continuations and of the bootstrap."""
    bootstrap_samples: int = Field(1000, ge=1)
    """Resamples behind each 95 % interval."""

    def split_of(self, task: Task) -> str:
        """Return the split asked of a benchmark."""
        return self.split or (task.scored[0] if task.splits else "test")

    def shots_of(self, task: Task) -> int:
        """Return how many examples stand before each of its prompts."""
        return self.shots.get(task.name, task.shots)

    def tokens_at_once(self) -> int:
        """Return how many tokens are read at once."""
        return self.batch_tokens or (1024 if self.device == "cpu" else 16384)

    def stride_of(self, positions: int) -> int:
        """Return the stride in tokens for a model of so many positions.

        Raises:
            ValueError: it is longer than the model's context.
        """
        usual = positions if self.convention == "harness" else max(1, positions // 2)
        stride = self.stride if self.stride is not None else usual
        if stride > positions:
            raise ValueError(f"stride {stride} is longer than the model's {positions} positions")
        return stride


class MemoryConfig(Config):
    """How much is read and written."""

    documents: int = Field(200, ge=1)
    """Documents of the training and of the held-out text that are read for their perplexity, evenly
    spread."""
    samples: int = Field(50, ge=1)
    """Held-out documents that the model goes on with."""
    context: float = Field(0.75, gt=0, lt=1)  # GPT-2 paper, appendix: 768 of 1024 tokens
    """Share of the model's positions that is the beginning; the rest is written."""
    top_k: int = Field(40, ge=1)  # GPT-2 paper, appendix
    """Tokens that are sampled among."""
    seed: int = 0
    """Seed of the samples."""
