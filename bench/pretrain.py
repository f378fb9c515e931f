"""A training step of textmill beside nanoGPT's, litgpt's and transformers', in turns.

    python -m bench.pretrain --nanogpt CHECKOUT --litgpt FOLDER [--shapes 4x256 6x384 12x768]

Each trainer is a process of its own with the same shape, batch and threads; all take turns of a few
steps, so that only ratios count. textmill runs its whole training loop: data order, guard,
clipping, schedule, events. Peers get their best setting on a CPU: bfloat16 autocast where the
processor multiplies it (else float32), torch.compile, fused AdamW, clipping, tcmalloc, the same
batch again and again; nanoGPT also as it is by default (float32, eager). MFU is against the ceiling
of this run in that type, with nanoGPT's count of operations. `--peers` picks some; tcmalloc must be
installed.
"""

import argparse
import ctypes.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES = {
    "4x256": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab": 8192, "batch": 8, "context": 256},
    "6x384": {"n_layer": 6, "n_embd": 384, "n_head": 6, "vocab": 50257, "batch": 8, "context": 256},
    "12x768": {
        **{"n_layer": 12, "n_embd": 768, "n_head": 12},
        **{"vocab": 50257, "batch": 2, "context": 512},
    },
}
TRAINERS = ("textmill", "nanogpt", "transformers", "litgpt", "nanogpt-default")
ROW = "| {:16s} | {:>12} | {:>8} | {:>8} | {:>9} | {:>6} |"


@dataclass
class Trainer:
    """A trainer's process, which does as many steps as it is told to."""

    name: str
    process: subprocess.Popen[str]
    rates: list[float]
    peak: float = 0.0

    def ask(self, command: str) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return dict(json.loads(answer))


def start(
    name: str, shape: dict[str, int], threads: int, folder: Path, paths: list[str]
) -> Trainer:
    """Start a trainer under tcmalloc and wait until it is warm."""
    library = ctypes.util.find_library("tcmalloc_minimal")
    if library is None:
        raise SystemExit("install tcmalloc (Debian: libtcmalloc-minimal4): the peers' best setting")
    variables = {"LD_PRELOAD": library, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *paths])}
    if name == "nanogpt-default":
        del variables["LD_PRELOAD"]
    module = f"bench.trainers.{name.removesuffix('-default').replace('-', '_')}"
    job = json.dumps({**shape, "threads": threads, "folder": str(folder), "name": name})
    process = subprocess.Popen(
        [sys.executable, "-m", module, job],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / f"{name}.log").open("w"),
        text=True,
    )
    trainer = Trainer(name, process, [])
    trainer.ask("2")
    print(f"  {name} is warm", file=sys.stderr)
    return trainer


def flops(shape: dict[str, int]) -> int:
    """Return the operations of a token's way there and back: 6 N + 12 L T C (nanoGPT, PaLM B)."""
    c, layers = shape["n_embd"], shape["n_layer"]
    weights = shape["vocab"] * c + layers * (12 * c * c + 13 * c) + 2 * c
    return 6 * weights + 12 * layers * c * shape["context"]


def measure(name: str, options: argparse.Namespace) -> None:
    """Let all trainers of a shape take turns, and print their table."""
    shape, tokens = SHAPES[name], SHAPES[name]["batch"] * SHAPES[name]["context"]
    steps = max(2, int(options.seconds * 15_000_000_000 * options.threads / flops(shape) / tokens))
    with tempfile.TemporaryDirectory() as folder:
        paths = [options.nanogpt, options.litgpt]
        sides = [
            start(side, shape, options.threads, Path(folder), [p for p in paths if p])
            for side in options.peers
        ]
        ceiling = start("ceiling", shape, options.threads, Path(folder), [])
        for _ in range(options.turns):
            ceiling.rates.append(ceiling.ask("1")["flops"])
            for side in sides:
                slow = side.name == "nanogpt-default"
                count = max(1, steps // 8) if slow else steps
                answer = side.ask(str(count))
                side.rates.append(count * tokens / answer["seconds"])
                side.peak = answer["peak"]
    best = statistics.median(ceiling.rates)
    print(f"\n{name}, vocabulary {shape['vocab']}, {shape['batch']} x {shape['context']} tokens, ")
    print(f"{options.threads} threads; ceiling {best / 1e9:.0f} GF/s\n")
    print(ROW.format("trainer", "tokens/s", "MFU", "ratio", "peak MB", "turns"))
    print("|---|---:|---:|---:|---:|---:|")
    ours = sides[0].rates
    for side in sides:
        rate = statistics.median(side.rates)
        ratio = statistics.median(a / b for a, b in zip(ours, side.rates, strict=True))
        mfu = f"{rate * flops(shape) / best:.3f}"
        cells = [side.name, f"{rate:.0f}", mfu, f"{ratio:.2f}", f"{side.peak:.0f}", len(side.rates)]
        print(ROW.format(*cells), flush=True)
    for side in [*sides, ceiling]:
        side.process.kill()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", default="", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--litgpt", default="", help="a folder that litgpt is installed in")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--peers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20, help="of a turn, roughly")
    options = parser.parse_args()
    options.peers = ["textmill", *(p for p in options.peers if p != "textmill")]
    for name in options.shapes:
        measure(name, options)


if __name__ == "__main__":
    main()
