"""What fine-tuning is told; the defaults are GPT-1's (paper, section 4.1; gpt1.md 4).

Free of torch and Lightning, so that flows and forms load fast.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from modules.config import Config
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


class LoraConfig(Config):
    """Low-rank adapters beside frozen matrices (Hu et al. 2021); the values are its GPT-2 runs'."""

    rank: int = Field(4, ge=1)
    """Rank of each adapter."""
    alpha: int = Field(32, ge=1)
    """An adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on what the adapters read."""
    targets: tuple[Literal["c_attn", "c_proj", "c_fc"], ...] = Field(("c_attn",), min_length=1)
    """The maps of each block that are adapted: q, k and v in one; the two that write into the
    residual; the MLP's first."""


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
    lm_average: Literal["sequence", "token"] = "sequence"  # the release (gpt1.md 4.2)
    """sequence: the mean of each sequence's targets, then over sequences. token: over all targets,
    so that a long example weighs more."""
    lm_classes: Literal["vocabulary", "with_positions"] = "vocabulary"
    """with_positions: the LM softmax runs over the position vectors too, as the release's one
    matrix has it (gpt1.md 1.2)."""
    score_loss: Literal["classes", "squared"] = "classes"
    """Tasks with a scale. classes: a score's weight is spread over its two neighbouring whole
    numbers, the prediction is the expectation (the release; gpt1.md 4.6). squared: regression."""
    clf_dropout: float = Field(0.1, ge=0, lt=1)  # GPT-1 paper, section 4.1
    """Dropout on the state that the head reads."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the decoder while fine-tuning; None: what the checkpoint has (GPT-1: 0.1).
    A frozen decoder (use = features) has none."""
    embedding_dropout: Literal["activations", "matrix", "separate"] = "activations"
    """What embedding dropout is drawn for (gpt1.md 1.2). activations: each sum of token and
    position. matrix: the whole table of tokens and positions once a step, the tied output too (the
    release). separate: token and position apart (its PyTorch port)."""
    pair: Literal["sum", "concat"] = "sum"  # GPT-1 paper, section 3.3
    """Similarity: add the states of the two orders, or put them side by side."""
    likelihood: bool = False
    """Multiple choice: add to the head's logit how much likelier document and question make an
    answer's tokens, as GPT-3 chooses without training (Brown et al. 2020, section 2.4). For few
    rows, where the head cannot learn what the language model knows. Up to twice the time."""
    lora: LoraConfig | None = None
    """Train adapters beside the decoder's matrices (and the head) instead of all weights; needs the
    extra `lora`. What is written has them added in."""
    truncate: Literal["release", "longest_first"] = "release"
    """Rows that do not fit. release: each segment of a pair keeps its first n_ctx // 2 - 2 tokens
    (gpt1.md 4.5). longest_first: the longer segment is cut until the pair fits. Both keep question
    and answer of multiple choice and cut the document's beginning, where the release is silent."""
    select: Literal["metric", "loss", "last"] = "metric"
    """Weights that are kept: those with the best headline metric of the task on the validation
    rows (the release, which has accuracy), with the lowest loss there, or the last ones. Validated
    at the end of each epoch, in the first also after 1,000, 2,000, 4,000, ... updates (gpt1.md
    4.1)."""
    patience: int | None = Field(None, ge=1)
    """Stop when so many validations in a row were no better than the best; None: never."""
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
    """Tokens computed at once; bounds memory, does not change the loss."""
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
    def _adapters_need_weights(self) -> Self:
        if self.lora and self.use not in ("initialise", "auxiliary"):
            raise ValueError(
                f"lora adapts pretrained weights; use = {self.use} trains none of them"
            )
        if self.use == "features" and self.compile:
            raise ValueError("use = features reads each row once: nothing to compile")
        if self.use == "features" and self.likelihood:
            raise ValueError("use = features keeps no likelihoods: set likelihood = false")
        return self

    @model_validator(mode="after")
    def _no_transfer(self) -> Self:
        if self.optim.base_width:
            raise ValueError("optim.base_width is for pre-training: the weights have their sizes")
        return self
