"""What pre-training and fine-tuning share: one optimizer step, resuming, and what happens between.

A Lightning batch is one optimizer step: the list of its micro-batches. The step counter, the data
position and the dropout masks all follow from one integer, so a checkpoint on a step boundary
resumes bit for bit (DESIGN.md, decisions 3 to 5; RELIABILITY.md, R1 and R16).
"""

import hashlib
import logging
import math
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from modules.training import state as states
from modules.training.config import OptimConfig, TrainingConfig
from modules.training.optim import (
    build_optimizers,
    learning_rate,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)
from modules.training.order import mix

log = logging.getLogger(__name__)

Emit = Callable[[dict[str, Any]], None]
LIBRARIES = ("torch", "lightning", "safetensors", "numpy")


class Training(L.LightningModule):
    """A model with its optimizers; children say what the loss of a micro-batch is."""

    def __init__(self, model: nn.Module, optim: OptimConfig, *, total: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optim, self.total, self.seed = optim, total, seed
        self.max_bad_steps = 5
        self.done = 0  # optimizer steps behind us, skipped ones included: the data position
        self.skipped: list[int] = []  # steps whose loss or gradient was not finite
        self.curve: list[dict[str, Any]] = []
        self.recent: list[float] = []  # losses since the last row of the curve
        self.best: dict[str, Any] = {}  # validation result that model selection keeps
        self.best_weights: dict[str, Tensor] = {}
        self.exact = True  # False after resuming under other versions or threads
        self.lr = 0.0
        self.loss: float | None = None  # of the last step that was applied

    def micro_loss(self, batch: Any) -> Tensor:
        """Return one micro-batch's share of the step's loss; the shares add up to the mean."""
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Return validation numbers, or nothing where there is no validation data."""
        raise NotImplementedError

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Build the optimizers (Lightning's hook)."""
        self.raw_optimizers = build_optimizers(self.model, self.optim)
        return self.raw_optimizers

    def training_step(self, micro_batches: list[Any], index: int) -> None:
        """Do one optimizer step, or skip it when loss or gradient is not finite."""
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches):
            seed = mix(self.seed, self.done, i, self.global_rank)
            torch.manual_seed(seed >> 1)  # the dropout masks
            with self._no_sync(i + 1 < len(micro_batches)):
                loss = self.micro_loss(batch)
                self.manual_backward(loss)
            total += loss.detach()
        mean = float(self.trainer.strategy.reduce(total, reduce_op="mean"))
        limit = self.optim.grad_clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self.lr = learning_rate(self.done, self.total, self.optim)
        if math.isfinite(mean) and math.isfinite(norm):
            set_learning_rate(self.raw_optimizers, self.lr)
            for optimizer in self.raw_optimizers:
                optimizer.step()
            self.recent.append(mean)
            self.loss = mean
        else:
            self._skip(mean, norm)
        for optimizer in self.raw_optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.done += 1

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
            "weights": weights_of(self.model),
            "optimizer": optimizer_tensors(self.model, self.raw_optimizers),
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
            "exact": self.exact,
            "fingerprint": fingerprint,
            "environment": environment(),
        }
        return states.State({k: v for k, v in tensors.items() if v}, values)

    @torch.no_grad()
    def restore(self, saved: states.State) -> None:
        """Continue from a checkpoint (weights and counters; the optimizer once it is built)."""
        values = saved.values
        self.done, self.skipped, self.curve = values["step"], values["skipped"], values["curve"]
        self.recent, self.best, self.exact = values["recent"], values["best"], values["exact"]
        if values["environment"] != environment():
            self.exact = False
            log.warning(
                "resuming under %s, the checkpoint was made under %s: the last bits may differ",
                environment(),
                values["environment"],
            )
        put_weights(self.model, saved.tensors["weights"])
        self.best_weights = saved.tensors.get("best", {})
        torch.set_rng_state(saved.tensors["rng"]["torch"])
        self._saved_optimizer: dict[str, Tensor] | None = saved.tensors.get("optimizer", {})

    def on_train_start(self) -> None:
        """Put the optimizer's state back, now that the weights are where they train."""
        if getattr(self, "_saved_optimizer", None):
            restore_optimizers(self.model, self.raw_optimizers, self._saved_optimizer or {})
            self._saved_optimizer = None


def rank_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters by name, each once."""
    return {name: p.detach() for name, p in model.named_parameters()}


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


def environment() -> dict[str, Any]:
    """Return what the last bits depend on: library versions, threads and device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in LIBRARIES}
    return {"versions": versions, "threads": torch.get_num_threads(), "device": device}


@dataclass
class Safety:
    """Where a run's state goes, who hears of its progress, and who may stop it."""

    folder: Path  # training-state checkpoints
    fingerprint: str  # of config and inputs: a checkpoint of other work is refused
    emit: Emit
    stopping: Callable[[], bool] = lambda: False


class Between(L.Callback):
    """After each step: the loss curve, validation, checkpoints, events, and stopping on request."""

    def __init__(
        self, config: TrainingConfig, safety: Safety, *, val_every: int, tokens: int
    ) -> None:
        self.config, self.safety, self.val_every, self.tokens = config, safety, val_every, tokens
        self.interrupted = False
        self._clock: deque[tuple[float, int]] = deque(maxlen=30)  # (time, step) of late events
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: Training) -> None:  # type: ignore[override]
        """Start the clock, and take SIGTERM back from Lightning (it would exit with 0)."""
        self._clock.append((time.monotonic(), module.done))
        handler = getattr(self.safety.stopping, "handler", None)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: Training, outputs: Any, batch: Any, index: int
    ) -> None:
        """Note the step; validate, save and stop when it is time."""
        last = module.done == module.total
        validation: dict[str, float] = {}
        if last or (self.val_every and module.done % self.val_every == 0):
            validation = module.validate()
        if last or validation or module.done % self.config.log_every == 0:
            self._add_row(module, validation)
        self._tell(module, validation, last)
        stop = self._agreed_to_stop(trainer)
        if stop or module.done % self.config.checkpoint_every == 0:
            self.save(trainer, module)
        if stop and not last:
            self.interrupted = trainer.should_stop = True

    def save(self, trainer: L.Trainer, module: Training) -> None:
        """Write a checkpoint from the first process; the others wait."""
        if trainer.is_global_zero:
            saved = module.saved(self.safety.fingerprint)
            states.save(self.safety.folder, module.done, saved, keep=self.config.keep_checkpoints)
        trainer.strategy.barrier()

    def _add_row(self, module: Training, validation: dict[str, float]) -> None:
        row: dict[str, Any] = {"step": module.done, "lr": module.lr, **validation}
        row["tokens"] = module.done * self.tokens
        if module.recent:
            row["loss"] = sum(module.recent) / len(module.recent)
        module.curve.append(row)
        module.recent = []

    def _tell(self, module: Training, validation: dict[str, float], last: bool) -> None:
        now = time.monotonic()
        first = len(self._clock) == 1
        if not (validation or last or first or now - self._clock[-1][0] >= 1.0):
            return
        seconds, steps = now - self._clock[0][0], module.done - self._clock[0][1]
        if first:
            self._clock.clear()  # the first step warms up and says nothing about the rate
        self._clock.append((now, module.done))
        event = {
            "step": module.done,
            "of": module.total,
            "lr": module.lr,
            "tokens": module.done * self.tokens,
            "tokens_per_second": round(steps * self.tokens / seconds, 1),
            "eta": round((module.total - module.done) * seconds / steps, 1),
            "skipped": len(module.skipped),
            **validation,
        }
        if module.loss is not None:
            event["loss"] = module.loss
        self.safety.emit(event)

    def _agreed_to_stop(self, trainer: L.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.safety.stopping()
        wanted = torch.tensor(float(self.safety.stopping()), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(wanted, reduce_op="sum") > 0)


def run(
    module: Training,
    data: L.LightningDataModule,
    config: TrainingConfig,
    safety: Safety,
    *,
    val_every: int,
    tokens: int,
) -> bool:
    """Train to the last step, or to a request to stop; True when the last step is done.

    Args:
        module: restored already, if there was something to restore.
        tokens: tokens read per optimizer step, for rates.
    """
    module.max_bad_steps = config.max_bad_steps
    if module.done == module.total:
        return True
    between = Between(config, safety, val_every=val_every, tokens=tokens)
    with _quiet(), reproducible(config.device_kind):
        trainer = L.Trainer(
            accelerator="gpu" if config.device_kind == "cuda" else "cpu",
            devices=config.devices,
            strategy="ddp" if config.devices > 1 else "auto",
            precision=config.real_precision,  # type: ignore[arg-type]
            max_epochs=1,  # the loader ends by itself; epochs are ours to count
            callbacks=[between],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=safety.folder,
        )
        trainer.fit(module, datamodule=data)
    return not between.interrupted


def resume(module: Training, safety: Safety) -> None:
    """Continue from the newest checkpoint that verifies, if there is one.

    Raises:
        ValueError: the checkpoint belongs to another config or other inputs.
    """
    saved = states.load_newest(safety.folder)
    if saved is None:
        return
    if saved.values["fingerprint"] != safety.fingerprint:
        raise ValueError(
            f"{safety.folder} holds checkpoints of another config or other inputs; "
            "remove it or choose another output directory"
        )
    module.restore(saved)
    log.info("resuming after step %d of %d", module.done, module.total)


def fingerprint(config: TrainingConfig, *inputs: str) -> str:
    """Return a hash of the config and the inputs' hashes, without what cannot change the result."""
    free = {"checkpoint_every", "keep_checkpoints", "workers", "threads"}
    parts = [config.model_dump_json(exclude=free), *inputs]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def prepare(config: TrainingConfig, folder: Path) -> None:
    """Set threads and seed before anything is built.

    A resumed run keeps its first thread count unless the config names one: the count decides the
    last bits of every product.
    """
    threads = config.threads
    if threads is None:
        saved = states.load_newest(folder)
        threads = saved.values["environment"]["threads"] if saved else os.cpu_count()
    torch.set_num_threads(threads or 1)
    torch.manual_seed(config.seed)


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """Choose kernels that give the same bits every time (CPU kernels do already)."""
    if device != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def autocast(config: TrainingConfig) -> AbstractContextManager[Any]:
    """Return the context evaluation runs in: the training's precision."""
    enabled = config.real_precision == "bf16-mixed"
    return torch.autocast(config.device_kind, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's start-up lines and an advert out of the run's log."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        try:
            yield
        finally:
            logger.setLevel(level)
