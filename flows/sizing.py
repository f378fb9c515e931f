"""`textmill plan` and `textmill profile`: what a preset needs, and where its steps' time goes.

modules/training/plan.py counts, throughput.py and profile.py measure in a training process of
their own; this file starts them and lays the numbers out.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.amounts import amount, duration
from flows.page import Shown
from flows.settings import enter
from modules.files import Progress
from modules.run import PretrainConfig, RunConfig

logger = logging.getLogger(__name__)


def measured(
    config: PretrainConfig, kind: str, seconds: float, progress: Progress, trace: Path | None = None
) -> dict[str, Any]:
    """Measure or profile some steps in a process like a training's; return what it found.

    Raises:
        ValueError: it failed; the message is the process's own.
    """
    from modules.training.fit import launch

    workspace = enter()
    state = workspace.state / "tmp"
    state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state) as folder:
        job = {
            "kind": kind,
            "config": config.model_dump(mode="json"),
            "inputs": {},
            "seconds": seconds,
            "trace": str(trace),
            "out": folder,
            "events": f"{folder}/steps.jsonl",
        }
        result = launch(job, on_event=lambda e: progress(e["step"], e["of"], ""))
        if result.state != "completed":
            raise ValueError(f"the steps could not be measured: {result.error}")
        name = {"measure": "throughput.json", "profile": "profile.json"}[kind]
        found: dict[str, Any] = json.loads((Path(folder) / name).read_text())
    return found


def tokens_of(run: RunConfig) -> int | None:
    """Return how many tokens a run reads: by its steps, or its epochs of the newest tokens."""
    from modules.training.order import Windows
    from registry import artifacts

    config = run.pretrain
    if config.max_steps is not None:
        return config.tokens_before(config.max_steps)
    try:
        tokens = artifacts.look_up(enter(), f"tokens/{run.name}").counts["train.tokens"]
    except (ValueError, FileNotFoundError, KeyError):
        return None
    per_epoch = Windows(int(tokens), config.window, config.seed).per_epoch
    return config.tokens_before(config.total_steps(per_epoch))


def size_table(config: PretrainConfig) -> Shown:
    """Show parameters and arithmetic."""
    from modules.training.plan import flops_per_token, step_tokens

    model, flops = config.model, flops_per_token(config.model, config.window)
    body = model.n_params_body
    rows = [
        ["parameters", f"{model.n_params:,}", ""],
        ["  in the body", f"{body:,}", _share(body, model.n_params)],
        [
            "  in embeddings and output",
            f"{model.n_params - body:,}",
            _share(model.n_params - body, model.n_params),
        ],
        ["operations a token, 6 N", amount(flops.weights, "FLOP"), ""],
        ["  attention, 12 L C T", amount(flops.attention, "FLOP"), ""],
        ["operations a step", amount(flops.total * step_tokens(config), "FLOP"), ""],
        ["tokens a step", f"{step_tokens(config):,}", _rows(config)],
    ]
    note = (
        "Forward and backward: 6 N + 12 L C T a token (PaLM, appendix B; nanoGPT's estimate_mfu); "
        "N without the position embedding."
    )
    return Shown("Size", ["what", "amount", ""], rows, note)


def memory_table(config: PretrainConfig) -> Shown:
    """Show what a step's tensors take by precision and micro-batch."""
    from modules.training.plan import PRECISIONS, memory

    own = config.batch_size // config.ranks
    rows = []
    for precision in PRECISIONS:
        for batch in sorted({max(1, own // 4), max(1, own // 2), own, 2 * own}):
            need = memory(config, precision, batch)
            parts = need.weights, need.gradients, need.moments, need.activations, need.passing
            mine = batch == own and precision == config.real_precision
            rows.append(
                [
                    f"{precision}{' *' if mine else ''}",
                    f"{batch} x {config.window:,}",
                    *_bytes(*parts, need.total),
                ]
            )
    header = [
        "precision",
        "micro-batch",
        "weights",
        "gradients",
        "moments",
        "activations",
        "passing",
    ]
    note = (
        "Tensors of one device, read off this model's own blocks. Passing: a chunk of logits, or "
        "a block's way back; total: the most at once. * this preset here. Python and PyTorch take "
        "about 0.4 GB beside them."
    )
    return Shown("Memory", [*header, "total"], rows, note)


def speed_table(config: PretrainConfig, found: Mapping[str, Any]) -> Shown:
    """Show what was measured, and what a whole step takes by it."""
    from modules.training.throughput import PHASES

    total = sum(found["seconds"].values())
    rows = [
        [phase, duration(found["seconds"][phase]), _share(found["seconds"][phase], total)]
        for phase in PHASES
    ]
    rows.append(["a whole step", duration(total), f"{found['tokens_per_second']:,.0f} tokens/s"])
    rows.append(["MFU", f"{found['mfu']:.1%}", f"of {amount(found['ceiling'], 'FLOP/s')}"])
    rows.append(["peak memory, all of the process", amount(found["peak_bytes"], "B"), ""])
    whole = config.batch_size == found["rows"] and config.accumulate == 1
    note = (
        f"Measured on {found['device']} ({found['threads']} threads, {found['precision']}): "
        f"{found['steps']} steps of {found['rows']} x {config.window:,} tokens"
        + ("." if whole else f"; a step of this preset has {_rows(config)}, reckoned from phases.")
        + " MFU is against the fastest matrix product of that precision here."
    )
    return Shown("One step here", ["phase", "time", ""], rows, note)


def time_table(run: RunConfig, found: Mapping[str, Any] | None) -> Shown:
    """Show how many tokens this run, Chinchilla and GPT-2's recipe ask for, and the time here."""
    from modules.training.plan import CHINCHILLA, GPT2_TOKENS, OPENWEBTEXT, flops_per_token

    config, own = run.pretrain, tokens_of(run)
    flops = flops_per_token(config.model, config.window).total
    goals = {
        f"this run ({_length(config)})": own,
        f"Chinchilla: {CHINCHILLA} tokens a parameter": CHINCHILLA * config.model.n_params,
        f"GPT-2: {GPT2_TOKENS / OPENWEBTEXT:.1f} epochs of OpenWebText": GPT2_TOKENS,
    }
    rows = [[name, *_needs(config, tokens, flops, found)] for name, tokens in goals.items()]
    note = (
        "Chinchilla: Hoffmann et al. 2022. GPT-2's paper does not say; nanoGPT's recipe for the "
        "124M model: 600,000 steps of 491,520 tokens."
    )
    if own is None:
        note += f" This run's length follows from tokens/{run.name}, which is not made yet."
    return Shown("Tokens and time", ["goal", "tokens", "steps", "FLOP", "time here"], rows, note)


def operator_table(found: Mapping[str, Any]) -> Shown:
    """Show the operators with most time of their own."""
    rows = [
        [row["name"], f"{row['calls']:,}", duration(row["seconds"]), f"{row['share']:.1%}"]
        for row in found["operators"]
    ]
    note = f"Tensors of the profiled step held at most {amount(found['step_peak_bytes'], 'B')} "
    note += "beyond weights, moments and what came before it."
    return Shown("Operators, own time", ["operator", "calls", "time", "share"], rows, note)


def plan_tables(
    run: RunConfig, *, measure: bool, seconds: float, progress: Progress
) -> Iterator[Shown]:
    """Yield the tables of a plan, the slow ones last."""
    config, found = run.pretrain, None
    yield size_table(config)
    yield memory_table(config)
    if measure and fits(config):
        found = measured(config, "measure", seconds, progress)
        yield speed_table(config, found)
    yield time_table(run, found)


def fits(config: PretrainConfig) -> bool:
    """Tell whether one row of a config trains in the memory that is free here."""
    import psutil

    from modules.training.plan import memory

    if config.device_kind == "cuda":
        return True  # PyTorch says by itself what is missing
    need = memory(config, config.real_precision, 1).total
    free = psutil.virtual_memory().available
    if need > free:
        logger.warning("not measured: a row needs %s, %s are free", *_bytes(need, free))
    return need <= free


def _needs(
    config: PretrainConfig, tokens: int | None, flops: int, found: Mapping[str, Any] | None
) -> list[str]:
    """Return tokens, steps, operations and time as text."""
    if tokens is None:
        return ["?"] * 4
    time = duration(tokens / found["tokens_per_second"]) if found else "not measured"
    from modules.training.plan import step_tokens

    steps = f"{tokens / step_tokens(config):,.0f}"
    return [amount(tokens, "").strip(), steps, amount(tokens * flops, "FLOP"), time]


def _bytes(*sizes: int) -> list[str]:
    return [amount(size, "B") for size in sizes]


def _length(config: PretrainConfig) -> str:
    if config.max_steps is None:
        return f"{config.epochs:g} epochs"
    return f"{config.max_steps:,} steps"


def _rows(config: PretrainConfig) -> str:
    return f"{config.accumulate} x {config.batch_size} x {config.window:,}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}"
