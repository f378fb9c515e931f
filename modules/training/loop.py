"""What pre-training and fine-tuning share: the Trainer, and what happens between two steps.

A Lightning batch is one optimizer step: the list of its micro-batches. Between two steps come the
loss curve, validation, checkpoints, events, and stopping on request (DESIGN.md, decisions 3 to 5).
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modules.files import sha256, write_json
from modules.model.checkpoint import WEIGHTS
from modules.training import ranks
from modules.training import state as states
from modules.training.config import TrainingConfig
from modules.training.lean_lightning import L, SIGTERMException
from modules.training.meter import Meter
from modules.training.step import Training, finite
from modules.training.writer import Writer

log = logging.getLogger(__name__)

FACTS = "training.json"  # written last
Emit = Callable[[dict[str, Any]], None]


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
        self,
        config: TrainingConfig,
        safety: Safety,
        meter: Meter,
        writer: Writer,
        val_every: int,
        val_also: Collection[int],
    ) -> None:
        self.config, self.safety, self.meter, self.writer = config, safety, meter, writer
        self.val_every, self.val_also = val_every, val_also
        self.interrupted = False

    def on_train_start(self, trainer: L.Trainer, module: Training) -> None:  # type: ignore[override]
        """Start the clock, and take SIGTERM back from Lightning (it would exit with 0)."""
        self.meter.start(module.done)
        handler = getattr(self.safety.stopping, "handler", None)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: Training, outputs: Any, batch: Any, index: int
    ) -> None:
        """Note the step; validate, save and stop when it is time."""
        self.writer.check()
        if module.back_to is not None:
            self._forget(trainer, module.back_to)
            return
        last = module.over
        validation: dict[str, float] = {}
        due = self.val_every and module.done % self.val_every == 0
        if last or due or module.done in self.val_also:
            validation = finite(module.validate(), module.done)
            ranks.reshard(module.model)
        if last or validation or module.done % self.config.log_every == 0:
            self._add_row(module, validation)
        last = module.over  # a validation may have ended it
        stop = self._agreed_to_stop(trainer)
        self._tell(module, validation, last or stop)
        module.keep()
        if stop or module.done % self.config.checkpoint_every == 0:
            self.save(trainer, module)
        self.interrupted = stop and not last
        trainer.should_stop |= self.interrupted or last

    def save(self, trainer: L.Trainer, module: Training) -> None:
        """Write a checkpoint from the first process; the others wait until it is copied."""
        saved = module.saved(self.safety.fingerprint)  # the others give their parts
        if trainer.is_global_zero:
            self.writer.save(module.done, saved, spare={module.best.get("step", 0)})
        trainer.strategy.barrier()

    def _forget(self, trainer: L.Trainer, step: int) -> None:
        """End this way of the run and drop what was saved on it after a step."""
        trainer.should_stop = True
        self.writer.wait()
        if trainer.is_global_zero:
            states.discard_after(self.safety.folder, step)
        trainer.strategy.barrier()

    def _add_row(self, module: Training, validation: dict[str, float]) -> None:
        row: dict[str, Any] = {"step": module.done, "lr": module.lr, **validation}
        row["tokens"] = self.meter.tokens(module.done)
        if module.recent:
            row["loss"] = sum(module.recent) / len(module.recent)
        module.curve.append(row)
        module.recent = []

    def _tell(self, module: Training, validation: dict[str, float], last: bool) -> None:
        if not (validation or last or self.meter.due):
            return
        event = {
            "step": module.done,
            "of": module.total,
            "lr": module.lr,
            "skipped": len(module.skipped),
            "spikes": len(module.spikes),
            **self.meter.read(module),
            **validation,
        }
        if module.loss is not None:  # numbers of the last step that was applied
            event |= {"loss": module.loss, "grad_norm": module.norm}
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
    tokens: Callable[[int], int],
    flops: Callable[[int], int] | None = None,
    val_also: Collection[int] = (),
) -> bool:
    """Train to the last step, a request to stop (then False), or a spike (module.back_to is set).

    Args:
        module: restored already, if there was something to restore.
        tokens: tokens read in all steps before one.
        flops: operations per token at a step; with them come MFU's events.
        val_also: steps that are validated beside every `val_every`-th.
    """
    module.max_bad_steps, module.replay_every = config.max_bad_steps, config.replay_every
    low = config.real_precision == "bf16-mixed"
    module.product_dtype = torch.bfloat16 if low else config.weight_dtype
    if module.over:
        return True

    if config.recompute:
        ranks.recompute(module.model)
    keep, background = config.keep_checkpoints, config.background_saves
    with (
        Writer(safety.folder, keep=keep, background=background) as writer,
        _quiet(),
        reproducible(config.device_kind),
    ):
        between = Between(config, safety, Meter(tokens, flops), writer, val_every, val_also)
        trainer = L.Trainer(
            accelerator="gpu" if config.device_kind == "cuda" else "cpu",
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=ranks.strategy(config),
            precision="bf16-mixed" if low else "32-true",  # 64-true: the weights are so already
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
        try:
            trainer.fit(module, datamodule=data)
        except SIGTERMException:  # it came before on_train_start took the signal back
            return False
    return not between.interrupted


def fingerprint(config: TrainingConfig, *inputs: str) -> str:
    """Return a hash of what the result follows from: config and inputs' hashes."""
    parts = [json.dumps(config.decisive(), sort_keys=True), *inputs]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def finished(out: Path, safety: Safety) -> dict[str, int] | None:
    """Return the counts of a run that has already ended here with the same inputs and config.

    A process killed after its last byte has nothing to do again but to drop the state.
    """
    path, weights = out / FACTS, out / WEIGHTS
    if not path.exists():
        return None
    facts = json.loads(path.read_text())
    if facts["fingerprint"] != safety.fingerprint or not weights.exists():
        return None
    if sha256(weights) != facts["weights_sha256"]:
        log.warning("%s is damaged; training it again", weights)
        return None
    _remove(safety.folder)
    safety.emit({"step": facts["steps"], "of": facts["steps"]})
    return dict(facts["counts"])


def finish(out: Path, facts: dict[str, Any], counts: dict[str, int], safety: Safety) -> None:
    """Write training.json, which says that all other files are there, and drop the state."""
    seal = {"fingerprint": safety.fingerprint, "weights_sha256": sha256(out / WEIGHTS)}
    write_json(out / FACTS, {**facts, **seal, "counts": counts})
    _remove(safety.folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def prepare(config: TrainingConfig, safety: Safety) -> states.State | None:
    """Set threads and seed before anything is built; return the state to go on from, if any.

    A run resumed on as many ranks keeps its first thread count unless the config names one: the
    count decides the last bits of every product.

    Raises:
        ValueError: the checkpoint belongs to another config or other inputs.
    """
    for left in safety.folder.parent.rglob(".*.tmp"):  # files a killed process was writing
        left.unlink(missing_ok=True)
    saved = states.load_newest(safety.folder)
    if saved is not None and saved.values["fingerprint"] != safety.fingerprint:
        raise ValueError(
            f"{safety.folder} holds checkpoints of another config or other inputs; "
            "remove it or choose another output directory"
        )
    threads = config.threads or max(1, (os.cpu_count() or 1) // config.devices)
    if saved is not None:
        before = saved.values["environment"]
        if before.get("ranks") == ranks.layout(config):
            threads = config.threads or before["threads"]
        log.info("resuming after step %d", saved.values["step"])
    if config.compile:  # the shared cache would keep what a killed compiler left half done
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(safety.folder / f"compiled-{os.getpid()}")
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    return saved


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """Choose kernels that give the same bits every time (CPU kernels do already)."""
    if device != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
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
        for said in ("does not have many workers", "GPU available but not used"):
            warnings.filterwarnings("ignore", message=f".*{said}.*")
        try:
            yield
        finally:
            logger.setLevel(level)
