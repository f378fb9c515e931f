"""What fine-tuning is told; the defaults are GPT-1's (paper, section 4.1; gpt1.md 4).

Free of torch and Lightning, so that flows and forms load fast.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from modules.training.config import OptimConfig, TrainingConfig

Use = Literal["features", "initialise", "auxiliary", "scratch"]
GPT1_FINETUNE_OPTIM = OptimConfig(  # GPT-1 paper, section 4.1; betas from the release's defaults
    lr=6.25e-5,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    warmup_fraction=0.002,
    schedule="linear",
    min_lr_fraction=0.0,
)


class FinetuneConfig(TrainingConfig):
    """One fine-tuning run; the defaults are GPT-1's (paper, section 4.1)."""

    optim: OptimConfig = GPT1_FINETUNE_OPTIM
    """Optimizer and schedule: lr 6.25e-5, linear decay, warm-up over 0.2 % of the updates."""
    use: Use = "auxiliary"
    """What becomes of the pre-training (GPT-1 paper, section 2; Table 5). features: the decoder is
    frozen, the head learns. initialise: all weights go on learning. auxiliary: with the
    language-model loss beside the task's. scratch: new weights, with that loss too."""
    transfer_layers: int | None = Field(None, ge=0)
    """Blocks taken from the checkpoint, with the embeddings; the rest is drawn anew (GPT-1,
    Figure 2 left). 0: only the embeddings, as the release's n_transfer; None: everything. Nothing
    at all is taken with use = scratch."""
    epochs: int = Field(3, ge=1)  # GPT-1 paper, section 4.1
    """Passes over the training rows."""
    batch_size: int = Field(32, ge=1)  # GPT-1 paper, section 4.1
    """Examples per update; the last partial batch of an epoch is dropped, as in the release."""
    lm_weight: float = Field(0.5, ge=0)  # GPT-1 paper, section 4.1
    """lambda, the weight of the auxiliary language-model loss, for use = auxiliary and scratch; 0
    leaves it out."""
    clf_dropout: float = Field(0.1, ge=0, lt=1)  # GPT-1 paper, section 4.1
    """Dropout on the state that the head reads."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the decoder while fine-tuning; None: what the checkpoint has (GPT-1: 0.1)."""
    pair: Literal["sum", "concat"] = "sum"  # GPT-1 paper, section 3.3
    """Similarity: add the states of the two orders, or put them side by side."""
    max_length: int | None = Field(None, ge=8)
    """Longest sequence in tokens, special ones included; None: the model's positions."""
    max_train_examples: int | None = Field(None, ge=1)
    """Train on so many rows, drawn by the seed; None: all."""
    max_train_tokens: int | None = Field(None, ge=1)
    """Train on as many of these rows as hold so many tokens, so that tasks with long rows cost no
    more than others; None: no bound."""
    max_val_examples: int | None = Field(None, ge=1)
    """Validate on so many rows, drawn by the seed; None: all."""
    tokens_per_micro_batch: int = Field(4096, ge=1)
    """Padded tokens computed at once; bounds memory, does not change the loss."""
    checkpoint_every: int = Field(100, ge=1)
    """Optimizer steps between training-state checkpoints."""

    @property
    def lm_share(self) -> float:
        """The weight of the language-model loss in this use of the checkpoint."""
        return self.lm_weight if self.use in ("auxiliary", "scratch") else 0.0

    @model_validator(mode="after")
    def _whole_on_each_rank(self) -> Self:
        if self.strategy == "fsdp":  # rows differ in length: the ranks do not step together
            raise ValueError("strategy fsdp is for pre-training; fine-tune with ddp")
        return self

    @model_validator(mode="after")
    def _no_transfer(self) -> Self:
        if self.optim.base_width:
            raise ValueError("optim.base_width is for pre-training: the weights have their sizes")
        return self
