"""One file a trainer: it warms up, then does as many steps as each line of its input says."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def job() -> dict[str, Any]:
    """Return the shape and settings; what is printed later goes to the log, answers excepted."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    import torch

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    return settings


_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(**values: float) -> None:
    """Answer a command."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _answers.write(json.dumps({**values, "peak": peak}) + "\n")
    _answers.flush()


def serve(step: Callable[[], object]) -> None:
    """Do steps on command."""
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        answer(seconds=time.perf_counter() - begin)


def bf16() -> bool:
    """Tell whether bfloat16 is the faster precision here; AVX2 only emulates it."""
    from modules.training.config import PretrainConfig

    return PretrainConfig(max_steps=1).real_precision == "bf16-mixed"


def plain_step(model: Any, loss_of: Callable[[], Any], *, best: bool) -> Callable[[], object]:
    """Return a usual training step: backward, clipping, AdamW; autocast and fused at its best."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=best
    )
    half = best and bf16()

    def step() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def batch(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return tokens and targets (B, T)."""
    import torch

    shape = (settings["batch"], settings["context"] + 1)
    windows = torch.randint(0, settings["vocab"], shape)
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
