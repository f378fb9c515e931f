"""Where a training step's time and memory go: PyTorch's profiler on one step of a preset.

The last step of a short measurement (modules/training/throughput.py) runs under the profiler; the
steps before it, without, give the shares of the phases.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from modules.files import write_json
from modules.training.config import PretrainConfig
from modules.training.loop import Emit, Safety
from modules.training.plan import trace_bytes
from modules.training.throughput import (
    PHASES,
    Timed,
    never,
    observed,
    silent,
)

PROFILED = "profile.json"
SECONDS = 10.0  # of steps before the one that is profiled, about
TOP = 15  # operators shown


class Profiled(Timed):
    """Runs its last step under the profiler."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        self.profile: profile | None = None

    def training_step(self, micro_batches: list[Any], index: int) -> None:
        """Do one step."""
        if self.done + 1 < self.total:
            return super().training_step(micro_batches, index)
        cuda = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        with profile(activities=[ProfilerActivity.CPU, *cuda], profile_memory=True) as self.profile:
            super().training_step(micro_batches, index)
        self.spans.pop()  # watched steps are slower


def profile_step(
    config: PretrainConfig,
    out: Path,
    trace: Path,
    *,
    seconds: float = SECONDS,
    emit: Emit = silent,
    stopping: Callable[[], bool] = never,
) -> dict[str, Any] | None:
    """Profile one step of a preset: write a Chrome trace and profile.json; None when stopped."""
    seen = observed(Profiled, config, Safety(out / "state", "", emit, stopping), seconds)
    if seen is None:
        return None
    module, found = seen
    assert module.profile is not None
    if module.global_rank == 0:
        trace.parent.mkdir(parents=True, exist_ok=True)
        module.profile.export_chrome_trace(str(trace))
        cuda = config.device_kind == "cuda"
        found["operators"] = operators(module.profile, cuda=cuda)
        found["step_peak_bytes"] = max(trace_bytes(trace, device=int(cuda)))
        write_json(out / PROFILED, found)
    return found


def operators(profiled: profile, *, cuda: bool) -> list[dict[str, Any]]:
    """Return the operators with most time of their own: name, calls, seconds, share."""
    rows = [
        (
            row.key,
            row.count,
            (row.self_device_time_total if cuda else row.self_cpu_time_total) / 1e6,
        )
        for row in profiled.key_averages()
    ]
    total = sum(seconds for _, _, seconds in rows) or 1.0
    return [
        {"name": _named(name), "calls": n, "seconds": seconds, "share": seconds / total}
        for name, n, seconds in sorted(rows, key=lambda row: -row[2])[:TOP]
    ]


def _named(name: str) -> str:
    """Return an operator's name; the phases' own time is Python's."""
    return f"Python in {name}" if name in PHASES else name
