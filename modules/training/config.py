"""What training is told; free of torch and Lightning, so that flows and forms load fast.

Defaults of the optimizer are nanoGPT's GPT-2 recipe (config/train_gpt2.py; the GPT-2 paper prints
none). GPT-1's values (paper section 4.1, openai/finetune-transformer-lm) are GPT1_OPTIM, and
GPT1_FINETUNE_OPTIM in tuning_config.py.
"""

import os
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from modules.config import Config
from modules.model.config import GPTConfig, LSTMConfig
from modules.training import ramp
from modules.training.ramp import Ramp

if TYPE_CHECKING:
    import torch


class OptimConfig(Config):
    """How weights are updated: optimizer, learning rate schedule, weight decay and clipping."""

    optimizer: Literal["adamw", "muon", "release_adam"] = "adamw"
    """adamw: PyTorch's fused AdamW. muon: Muon for the hidden matrices, AdamW for the rest (two
    thirds of the steps at small size, each dearer). release_adam: the update rule of OpenAI's
    fine-tuning code."""
    lr: float = Field(6e-4, gt=0)  # nanoGPT, 124M
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)  # nanoGPT
    """Decay rates of Adam's two moments."""
    eps: float = Field(1e-8, gt=0)
    """Adam's epsilon."""
    weight_decay: float = Field(0.1, ge=0)  # nanoGPT; GPT-1: 0.01
    """Decoupled weight decay, on tensors of two or more dimensions only."""
    warmup_steps: int = Field(0, ge=0)  # GPT-1 section 4.1 and nanoGPT: 2,000
    """Updates over which the rate rises from 0 (or give warmup_fraction)."""
    warmup_fraction: float = Field(0.0, ge=0, lt=1)  # GPT-1 fine-tuning: 0.002
    """The same as a fraction of all updates."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Decay after the warm-up; wsd stays at lr and decays at the end (Hägele et al. 2024)."""
    min_lr_fraction: float = Field(0.1, ge=0, le=1)  # nanoGPT: 6e-5 of 6e-4; GPT-1: 0
    """The cosine and the decay of wsd end at this fraction of lr."""
    decay_fraction: float = Field(0.2, gt=0, le=1)  # Hägele et al. 2024, section 3: 10 to 20 %
    """Share of all updates in which wsd decays."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"  # Hägele et al. 2024: ahead of linear
    """How wsd decays: 1 - sqrt(x) or 1 - x, x from 0 to 1 over the decay."""
    grad_clip: float = Field(1.0, ge=0)  # nanoGPT and GPT-1's release
    """Largest global gradient norm; 0 does not clip."""
    muon_momentum: float = Field(0.95, ge=0, lt=1)
    """Momentum of Muon (only for optimizer = muon)."""
    muon_lr_ratio: float = Field(1.0, gt=0)
    """Muon's rate relative to lr; 1 matches the size of AdamW's updates (match_rms_adamw)."""
    embedding_lr_ratio: float = Field(1.0, gt=0)
    """AdamW's rate of token and position embedding relative to lr."""
    base_width: int | None = Field(None, ge=1)
    """n_embd at which lr was tuned: hidden matrices, their start and the logits are scaled so that
    it holds for other widths (muP, Yang et al. 2022; see transfer.py). None: no scaling."""

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps and self.warmup_fraction:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self


GPT1_OPTIM = OptimConfig(  # GPT-1 paper, section 4.1; betas from the release's defaults
    lr=2.5e-4, betas=(0.9, 0.999), weight_decay=0.01, warmup_steps=2000, min_lr_fraction=0.0
)


class SpikeConfig(Config):
    """Which losses are spikes, and what is done about them."""

    mads: float = Field(9.0, ge=0)  # OLMo-core's SkipStepOptimizer: 6 sigma, 8.9 MADs of a normal
    """A loss so many median absolute deviations above the median of the last losses is a spike, and
    recorded; 0: none is."""
    window: int = Field(128, ge=2)  # OLMo-core's SkipStepOptimizer: rolling_interval_length
    """So many losses of the last steps are looked at."""
    rollbacks: int = Field(0, ge=0)
    """Spikes that the run goes back before, past the data around them; later ones are recorded."""
    back: int = Field(100, ge=1)  # PaLM paper, section 5.1
    """Steps before the spike to go back to; the data from there to the spike is left out."""
    ahead: int = Field(100, ge=0)  # PaLM paper, section 5.1: 200 to 500 batches in all
    """Steps after the spike whose data is left out too."""


class TrainingConfig(Config):
    """What both kinds of training are told about the machine and the safety net.

    A run goes on where it was when a field of `machine` changes. Another number of threads or
    processes changes its last bits (and the dropout masks); training.json then says `exact: false`.
    """

    machine: ClassVar[frozenset[str]] = frozenset(
        [
            "devices",
            "nodes",
            "strategy",
            "restarts",
            "recompute",
            "threads",
            "workers",
            "checkpoint_every",
            "keep_checkpoints",
            "background_saves",
            "replay_every",
        ]
    )

    seed: int = 42  # GPT-1's fine-tuning release
    """Fixes the weights' start, the data order and the dropout masks."""
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"] = "auto"
    """auto: bf16-mixed where the processor or GPU multiplies bfloat16 fast, else 32-true. 64-true
    is slow: for checks that two ways to compute the same agree."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    devices: int = Field(1, ge=1)
    """Devices of each machine, one process each; more than one starts torch.distributed.run."""
    nodes: int = Field(1, ge=1)
    """Machines; how they find each other is in the environment (docs/cluster.md)."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: each process holds the whole training state. fsdp: each holds a slice of it. auto: ddp
    while the state takes at most half of a GPU."""
    recompute: bool = False
    """Keep only the input of each block for the backward pass and compute the block again: less
    memory, a third more work, the same bits."""
    restarts: int = Field(3, ge=0)
    """So many times the processes start again after one of them died, from the last checkpoint."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the products; another number gives other last bits. None: all cores."""
    workers: int = Field(0, ge=0)
    """Processes that prepare batches; any number gives the same batches."""
    compile: bool = False
    """Run the model through torch.compile (pays on GPUs and long runs)."""
    checkpoint_every: int = Field(200, ge=1)
    """Optimizer steps between training-state checkpoints."""
    keep_checkpoints: int = Field(3, ge=1)
    """Training-state checkpoints that stay while training, beside the one with the best val_loss
    among those saved at a step that was also validated."""
    background_saves: bool = True
    """Write checkpoints while training goes on: no step waits for hashes and the disk. Costs a copy
    of weights and optimizer in main memory while writing; off where that is scarce."""
    replay_every: int = Field(0, ge=0)
    """Compute every so many steps' gradients twice and compare them bit for bit, to find silently
    wrong hardware and kernels that are not deterministic; 0: never."""
    log_every: int = Field(10, ge=1)
    """Steps per row of the loss curve (each is the mean over its steps)."""
    max_bad_steps: int = Field(5, ge=1)
    """So many non-finite losses or gradients in a row end the run."""

    @property
    def ranks(self) -> int:
        """Processes of the run, over all machines."""
        return self.devices * self.nodes

    @property
    def device_kind(self) -> str:
        """The device type that `accelerator` means on this machine: cuda or cpu."""
        import torch

        if self.accelerator == "cpu":
            return "cpu"
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def visible_gpus(self) -> list[str]:
        """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
        import torch

        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return [named[i] if named[0] else str(i) for i in range(torch.cuda.device_count())]

    @property
    def weight_dtype(self) -> "torch.dtype":
        """The type of the weights, gradients and moments."""
        import torch

        return torch.float64 if self.precision == "64-true" else torch.float32

    @property
    def real_precision(self) -> str:
        """The precision that `auto` means on this machine."""
        import torch

        if self.precision != "auto":
            return self.precision
        if self.device_kind == "cuda":
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16-mixed" if fast else "32-true"


class PretrainConfig(TrainingConfig):
    """One pre-training run: the model, how it is optimised, and for how long."""

    model: GPTConfig | LSTMConfig = GPTConfig()
    """The decoder (GPT-1, GPT-2) or the LSTM of GPT-1's ablation."""
    optim: OptimConfig = OptimConfig()
    """Optimizer, learning rate schedule and clipping."""
    spikes: SpikeConfig = SpikeConfig()
    """Loss spikes: recorded, or gone back before."""
    context: int | None = Field(None, ge=1)
    """Tokens per training sequence; None: all of the model's positions."""
    sampling: Literal["windows", "documents"] = "windows"
    """windows: the stream of tokens, cut anywhere (GPT-2). documents: rows of whole documents by
    best-fit packing (Ding et al. 2024; see packing.py); held-out windows stay the same."""
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weights of several corpora by name: shares of the rows, exact over 65,536 of them. Empty: by
    size."""
    batch_size: int = Field(64, ge=1)  # GPT-1 paper, section 4.1: 64 x 512 tokens; GPT-2: 512
    """Sequences per micro-batch, over all devices."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches per optimizer step."""
    batch_ramp: Ramp = ()  # GPT-3 paper, appendix B: from 32k tokens a step up
    """Micro-batches per step on the way there: (until step, micro-batches), ... Small batches learn
    more per token early on (McCandlish et al. 2018, section 2.3)."""
    context_ramp: Ramp = ()  # Li et al. 2022, "The Stability-Efficiency Dilemma", section 4
    """Tokens per training sequence on the way to `context`: (until step, tokens), ... Each row is
    cut into so short ones, as in Shortformer (Press et al. 2021), so that tokens per step and the
    order of the tokens stay."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole run (or give epochs)."""
    epochs: float | None = Field(None, gt=0)  # GPT-1 paper, section 4.1: 100
    """Passes over the training tokens (of all corpora together), instead of max_steps."""
    val_every: int = Field(100, ge=0)
    """Steps between validations; 0: only at the end."""
    val_windows: int = Field(64, ge=1)
    """Held-out windows a validation reads: always the same, spread over the split."""
    val_domains: int = Field(0, ge=0)
    """So many of the held-out split's largest sources (web hosts, text sets) get a loss of their
    own, val_loss/SOURCE, over as many rows of their whole documents."""
    snapshots: tuple[int, ...] = ()
    """Steps at which the weights are kept as checkpoints of their own, under snapshots/."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give max_steps or epochs (one of them)")
        if self.context and self.context > self.model.n_positions:
            raise ValueError(
                f"context {self.context} is more than the model has: {self.model.n_positions}"
            )
        if self.batch_size % self.ranks:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of devices x nodes")
        if self.optim.base_width and self.model.architecture != "gpt":
            raise ValueError("optim.base_width: learning rates are transferred between GPTs only")
        return self

    @model_validator(mode="after")
    def _can_go_back(self) -> Self:
        reach = self.checkpoint_every * (self.keep_checkpoints - 1)
        if self.spikes.rollbacks and reach < self.spikes.back:
            raise ValueError(
                f"spikes.back {self.spikes.back}: the checkpoints reach back {reach} steps only; "
                "raise keep_checkpoints or checkpoint_every"
            )
        return self

    @model_validator(mode="after")
    def _ramps_rise(self) -> Self:
        ramp.check(self.batch_ramp, "batch_ramp")
        ramp.check(self.context_ramp, "context_ramp")
        if odd := [tokens for _, tokens in self.context_ramp if self.window % tokens]:
            raise ValueError(f"context_ramp: {odd[0]} does not divide the context {self.window}")
        return self

    @property
    def window(self) -> int:
        """Tokens per training sequence."""
        return self.context or self.model.n_positions

    def window_at(self, step: int) -> int:
        """Return the tokens per training sequence of a step."""
        return ramp.value_at(self.context_ramp, self.window, step)

    def micro_batches(self, step: int) -> int:
        """Return the micro-batches of a step."""
        return ramp.value_at(self.batch_ramp, self.accumulate, step)

    def micro_batches_before(self, step: int) -> int:
        """Return the micro-batches of all steps before this one: the data position."""
        return ramp.sum_before(self.batch_ramp, self.accumulate, step)

    def tokens_before(self, step: int) -> int:
        """Return the tokens predicted in all steps before this one."""
        return self.micro_batches_before(step) * self.batch_size * self.window

    def total_steps(self, windows_per_epoch: int) -> int:
        """Return the number of optimizer steps of the run."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None
        windows = self.epochs * windows_per_epoch
        steps = ramp.steps_for(self.batch_ramp, self.accumulate, windows, self.batch_size)
        return max(1, steps)
