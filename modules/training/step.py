"""One optimizer step, and all it takes to repeat it: the LightningModule both trainings build on.

The step counter, the data position and the dropout masks all follow from one integer, so a
checkpoint on a step boundary resumes bit for bit (DESIGN.md, decisions 4 and 5; RELIABILITY.md, R1
and R16).
"""

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from modules.kernels.build import kind
from modules.kernels.gradients import in_place_gradients
from modules.training import ranks
from modules.training import state as states
from modules.training.adamw import clip
from modules.training.config import OptimConfig, TrainingConfig
from modules.training.lean_lightning import L, ModelParallelStrategy, ParallelStrategy
from modules.training.optim import (
    build_optimizers,
    learning_rate,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)
from modules.training.order import mix
from modules.training.replay import compare, gradients_of
from modules.training.spikes import Ranges

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "lightning", "safetensors", "numpy")


class Training(L.LightningModule):
    """A model with its optimizers; children say what the loss of a micro-batch is."""

    config: TrainingConfig
    plain_loss = False  # True: nothing scales the kernels' loss, so that they may go further

    def __init__(self, model: nn.Module, optim: OptimConfig, *, total: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optim, self.total, self.seed = optim, total, seed
        self.max_bad_steps, self.replay_every = 5, 0
        self.product_dtype = torch.float32
        self.done = 0  # optimizer steps behind us, skipped ones included: the data position
        self.skipped: list[int] = []  # steps whose loss or gradient was not finite
        self.curve: list[dict[str, Any]] = []
        self.recent: list[float] = []  # losses since the last row of the curve
        self.best: dict[str, Any] = {}  # validation result that model selection keeps
        self.best_weights: dict[str, Tensor] = {}
        self.late: list[float] = []  # losses that a spike is told by
        self.spikes: list[dict[str, Any]] = []
        self.left_out: Ranges = []  # micro-batches, after rollbacks
        self.back_to: int | None = None  # step to go back to
        self.exact = True  # False after resuming under other versions or threads
        self._saved_optimizer: dict[str, Tensor] = {}  # until the optimizers are there
        self.lr = 0.0
        self.loss: float | None = None  # of the last step that was applied
        self.norm = 0.0  # of its gradient, before clipping

    def micro_loss(self, batch: Any) -> Tensor:
        """Return one micro-batch's share of the step's loss; the shares add up to the mean."""
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Return validation numbers, or nothing where there is no validation data."""
        raise NotImplementedError

    @property
    def over(self) -> bool:
        """Whether no step is left to do."""
        return self.done == self.total

    def keep(self) -> None:
        """Put aside what the run should keep of this step (called before it is saved)."""

    def configure_model(self) -> None:
        """Shard the model where the strategy says so (Lightning's hook)."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            ranks.shard(self.model, self.device_mesh["data_parallel"])

    def watch(self, loss: float) -> None:
        """Look at the loss of a step that is about to be applied."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Build the optimizers (Lightning's hook)."""
        self.raw_optimizers = build_optimizers(self.model, self.optim, dtype=self.product_dtype)
        return self.raw_optimizers

    def training_step(self, micro_batches: list[Any], index: int) -> None:
        """Do one optimizer step, or skip it when loss or gradient is not finite."""
        mean = self._accumulate(micro_batches)
        if self.replay_every and self.done % self.replay_every == 0:
            self._replay(micro_batches, mean)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = clip(self.raw_optimizers, trained, self.optim.grad_clip or math.inf)
        self.lr = learning_rate(self.done, self.total, self.optim)
        if math.isfinite(mean) and math.isfinite(norm):
            self.watch(mean)
            set_learning_rate(self.raw_optimizers, self.lr)
            for optimizer in self.raw_optimizers:
                optimizer.step()
            self.recent.append(mean)
            self.loss, self.norm = mean, norm
        else:
            self._skip(mean, norm)
        for optimizer in self.raw_optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.done += 1

    def _accumulate(self, micro_batches: list[Any]) -> float:
        """Add the gradients of all micro-batches to `.grad`; return the mean loss of all ranks."""
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches):
            seed = mix(self.seed, self.done, i, self.global_rank)
            self._seed(seed >> 1)
            in_place = self.plain_loss and self.trainer.world_size == 1
            with self._no_sync(i + 1 < len(micro_batches)), in_place_gradients(in_place):
                loss = self.micro_loss(batch)
                self.manual_backward(loss)
            total = total + loss.detach()  # in the type of the loss
        return float(self.trainer.strategy.reduce(total, reduce_op="mean"))

    def _seed(self, seed: int) -> None:
        """Seed what dropout draws from; torch.manual_seed notes a traceback a kind of device."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _replay(self, micro_batches: list[Any], loss: float) -> None:
        """Compute loss and gradients again; they must be the same bits (replay.py)."""
        first = gradients_of(self.model)
        for optimizer in self.raw_optimizers:
            optimizer.zero_grad(set_to_none=True)
        again = self._accumulate(micro_batches)
        compare(self.done + 1, (loss, first), (again, gradients_of(self.model)))

    def _skip(self, loss: float, norm: float) -> None:
        """Leave the weights as they are; stop after too many such steps in a row (R16).

        Raises:
            FloatingPointError: naming the steps.
        """
        step = self.done + 1
        log.warning("step %d not applied: loss %s, gradient norm %s", step, loss, norm)
        self.skipped.append(step)
        last = self.skipped[-self.max_bad_steps :]
        if len(last) == self.max_bad_steps and last[0] == step - self.max_bad_steps + 1:
            raise FloatingPointError(
                f"loss {loss}, gradient norm {norm} at step {step}: not finite {len(last)} steps "
                f"in a row (none was applied); lower optim.lr or look at the data of these steps"
            )

    def _no_sync(self, wanted: bool) -> AbstractContextManager[Any]:
        strategy = self.trainer.strategy
        if wanted and isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def saved(self, fingerprint: str) -> states.State:
        """Return everything that resuming needs, as of this step boundary."""
        tensors = {
            "weights": ranks.gathered(weights_of(self.model)),
            "optimizer": ranks.gathered(optimizer_tensors(self.model, self.raw_optimizers)),
            "rng": {"torch": torch.get_rng_state()},  # masks are re-seeded per micro-batch anyway
        }
        if self.best_weights:
            tensors["best"] = self.best_weights
        values = {
            "step": self.done,
            "skipped": self.skipped,
            "curve": self.curve,
            "recent": self.recent,
            "best": self.best,
            "late": self.late,
            "spikes": self.spikes,
            "left_out": self.left_out,
            "exact": self.exact,
            "fingerprint": fingerprint,
            "environment": environment(self.config),
        }
        return states.State({k: v for k, v in tensors.items() if v}, values)

    @torch.no_grad()
    def restore(self, saved: states.State) -> None:
        """Continue from a checkpoint (weights and counters; the optimizer once it is built)."""
        values = saved.values
        self.done, self.skipped, self.curve = values["step"], values["skipped"], values["curve"]
        self.recent, self.best, self.exact = values["recent"], values["best"], values["exact"]
        self.late, self.spikes = values["late"], values["spikes"]
        self.left_out = [(first, stop) for first, stop in values["left_out"]]
        now = environment(self.config)
        if values["environment"] != now:
            self.exact = False
            log.warning(
                "resuming under %s, the checkpoint was made under %s: the last bits may differ",
                now,
                values["environment"],
            )
        put_weights(self.model, saved.tensors["weights"])
        self.best_weights = saved.tensors.get("best", {})
        torch.set_rng_state(saved.tensors["rng"]["torch"])
        self._saved_optimizer = saved.tensors.get("optimizer", {})

    def on_train_start(self) -> None:
        """Put the optimizer's state back, now that the weights are where they train."""
        ranks.check_together(self.trainer.strategy, self.done)
        restore_optimizers(self.model, self.raw_optimizers, self._saved_optimizer)
        self._saved_optimizer = {}


def rank_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters by name, each once (sharded ones as their shards)."""
    ranks.reshard(model)
    return {name: p.detach() for name, p in model.named_parameters()}


def finite(validation: dict[str, float], step: int) -> dict[str, float]:
    """Return validation numbers that may be written down.

    Raises:
        FloatingPointError: one is not finite, so the weights are not good any more.
    """
    if bad := [f"{name} {x}" for name, x in validation.items() if not math.isfinite(x)]:
        raise FloatingPointError(
            f"{', '.join(bad)} after step {step}: not written down; the checkpoints before it are "
            "good: run it again to go on from there, with a lower optim.lr if it comes back"
        )
    return validation


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy saved weights into the model.

    Raises:
        ValueError: names or shapes differ.
    """
    own = dict(model.named_parameters())
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in weights.items()}:
        raise ValueError("the checkpoint's weights do not fit this model: another config made them")
    for name, value in weights.items():
        own[name].copy_(value)


def environment(config: TrainingConfig) -> dict[str, Any]:
    """Return what the last bits depend on: versions, threads, device, ranks and own kernels."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in LIBRARIES}
    threads, layout = torch.get_num_threads(), ranks.layout(config)
    kernels = kind() if config.device_kind == "cpu" else None  # AdamW's too
    known = {"versions": versions, "threads": threads, "device": device, "ranks": layout}
    return known | {"kernels": str(kernels)}
