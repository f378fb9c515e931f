"""How fast a preset trains on this device: some steps of its own, on tokens drawn at random.

The steps go through modules.training.loop like any training.
Start `measure` through modules.training.fit, so that the allocator is the one trainings get.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from modules.files import write_json
from modules.model import checkpoint
from modules.training import loop
from modules.training.ceiling import ceiling, wait
from modules.training.config import PretrainConfig
from modules.training.corpora import HeldOut
from modules.training.loop import Emit, Safety
from modules.training.plan import flops_per_token, step_tokens
from modules.training.pretrain import PretrainData, PretrainModule

MEASURED = "throughput.json"
SECONDS = 30.0  # that a measurement takes, about
STEPS, FEWEST = 20, 6  # steps of a measurement
WARM = 2  # first steps, which set up memory and kernels, do not count
LIKELY_MFU = 0.4  # only to choose how much to measure
NEVER = 10**9
PHASES = ("data", "forward", "backward", "guard", "optimizer")
BY_ROW = ("data", "forward", "backward")  # phases that take longer with more rows


def silent(event: dict[str, Any]) -> None:
    """Tell nobody."""


def never() -> bool:
    """Stop for nobody."""
    return False


class RandomRows:
    """Rows of tokens drawn at random, by sample number."""

    per_epoch = NEVER

    def __init__(self, config: PretrainConfig) -> None:
        self.length, self.vocab_size = config.window + 1, config.model.vocab_size

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return rows (N, context + 1), int64; the same for the same samples."""
        drawn = np.random.default_rng(int(samples[0]))
        return drawn.integers(0, self.vocab_size, (len(samples), self.length))


class Timed(PretrainModule):
    """The training step with a clock at each phase's end; `spans` has a row for each step."""

    def __init__(self, config: PretrainConfig) -> None:
        steps = config.total_steps(0)
        super().__init__(checkpoint.build(config.model), config, HeldOut(), total=steps)
        self.spans: list[dict[str, float]] = []
        self._span = dict.fromkeys(PHASES, 0.0)
        self._ended = 0.0

    def micro_loss(self, batch: Tensor) -> Tensor:
        """Time the forward pass."""
        with self._phase("forward"):
            return super().micro_loss(batch)

    def manual_backward(self, loss: Tensor, *arguments: Any, **named: Any) -> None:
        """Time the way back."""
        with self._phase("backward"):
            super().manual_backward(loss, *arguments, **named)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Time the optimizers' steps."""
        for optimizer in super().configure_optimizers():
            phases: list[Any] = []

            def begin(*_: Any, phases: list[Any] = phases) -> None:
                phases.append(self._phase("optimizer"))
                phases[-1].__enter__()

            def end(*_: Any, phases: list[Any] = phases) -> None:
                phases.pop().__exit__(None, None, None)

            optimizer.register_step_pre_hook(begin)
            optimizer.register_step_post_hook(end)
        return self.raw_optimizers

    def training_step(self, micro_batches: list[Any], index: int) -> None:
        """Do one step; what is neither forward, backward nor optimizer is the guard."""
        began = time.perf_counter()
        self._span = dict.fromkeys(PHASES, 0.0)
        self._span["data"] = began - self._ended
        super().training_step(micro_batches, index)
        wait(self.device.type)
        self._ended = time.perf_counter()
        known = sum(self._span.values()) - self._span["data"]
        self._span["guard"] = self._ended - began - known
        self.spans.append(self._span)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        with record_function(name):
            yield
            wait(self.device.type)
        self._span[name] += time.perf_counter() - began


T = TypeVar("T", bound=Timed)


def observed(
    kind: type[T], config: PretrainConfig, safety: Safety, seconds: float
) -> tuple[T, dict[str, Any]] | None:
    """Train an excerpt of a preset by a module that watches its steps; None when stopped early."""
    loop.prepare(config, safety)
    best = ceiling_of(config)
    module = kind(excerpt(config, seconds, best))
    return (module, facts(config, module, best)) if run(module, safety) else None


def measure(
    config: PretrainConfig,
    out: Path,
    *,
    seconds: float = SECONDS,
    emit: Emit = silent,
    stopping: Callable[[], bool] = never,
) -> dict[str, Any] | None:
    """Time some steps of a preset and write throughput.json; None when stopped early."""
    seen = observed(Timed, config, Safety(out / "state", "", emit, stopping), seconds)
    if seen is None:
        return None
    module, found = seen
    if module.global_rank == 0:
        write_json(out / MEASURED, found)
    return found


def ceiling_of(config: PretrainConfig) -> float:
    """Return the ceiling of all devices a config trains on, in its precision."""
    low = config.real_precision == "bf16-mixed"
    dtype = torch.bfloat16 if low else config.weight_dtype
    return ceiling(config.device_kind, dtype) * config.ranks


def excerpt(config: PretrainConfig, seconds: float, ceiling: float) -> PretrainConfig:
    """Return a config whose whole run takes about so many seconds: 6 to 20 steps.

    Where that is too short for whole micro-batches, they have fewer rows.
    """
    flops = flops_per_token(config.model, config.window).total * config.window
    row = flops / ceiling / LIKELY_MFU  # seconds
    fit = int(seconds / FEWEST / row) // config.ranks * config.ranks
    rows = min(config.batch_size, max(config.ranks, fit))
    return config.but(
        batch_size=rows,
        accumulate=1,
        max_steps=max(FEWEST, min(STEPS, int(seconds / (rows * row)))),
        epochs=None,
        batch_ramp=(),
        context_ramp=(),
        sampling="windows",
        mixture={},
        checkpoint_every=NEVER,
        snapshots=(),
    )


def facts(config: PretrainConfig, module: Timed, ceiling: float) -> dict[str, Any]:
    """Return what the timed steps say about the steps of a config.

    Data, forward and backward take as many times longer as a step has more rows; guard and
    optimizer take what they take.
    """
    times = config.batch_size * config.accumulate / module.config.batch_size
    seconds = {
        phase: median(span[phase] for span in module.spans[WARM:])
        * (times if phase in BY_ROW else 1)
        for phase in PHASES
    }
    rate = step_tokens(config) / sum(seconds.values())
    flops = flops_per_token(config.model, config.window).total
    return {
        "steps": len(module.spans),
        "rows": module.config.batch_size,
        "seconds": seconds,
        "tokens_per_second": rate,
        "ceiling": ceiling,
        "mfu": rate * flops / ceiling,
        "peak_bytes": peak(config.device_kind),
        "precision": config.real_precision,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if config.device_kind == "cuda" else "cpu",
    }


def run(module: Timed, safety: Safety) -> bool:
    """Train on random tokens to the module's last step."""
    config = module.config
    data = PretrainData(RandomRows(config), config, start=0, stop=module.total)
    return loop.run(module, data, config, safety, val_every=0, tokens=config.tokens_before)


def peak(kind: str) -> int:
    """Return the most bytes the device (or, on a CPU, this process) has held."""
    if kind == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
