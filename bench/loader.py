"""Rows of tokens from memory-mapped shards to the training step, against nanoGPT's loop.

    python -m bench.loader --nanogpt CHECKOUT [--rounds 5] [--step-ms 100]

nanoGPT's get_batch is taken out of the checkout's own train.py and run as it stands there, on the
same tokens. Ours is the DataLoader that pre-training reads from, `workers=0`, in this process. All
sides run in turn on one thread; medians of CPU seconds, so only the ratios count. --step-ms is what
a training step of these shapes takes on the machine: the last column is the loader's share of it.
"""

import argparse
import ast
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.corpus.token_file import read_split
from modules.files import sha256
from modules.model.config import GPTConfig
from modules.training.config import PretrainConfig
from modules.training.pretrain import PretrainData
from modules.training.windows import Stream

BATCHES = 2000  # of each side in each round
SHAPES = ((8, 256), (2, 512))  # rows x tokens of a micro-batch: 4x256 and 6x384, 12x768
ROW = "| {:32s} | {:>8s} | {:>8s} | {:>6s} | {:>12s} |"

Side = Callable[[], object]
"""Gives the next micro-batch."""


def write_tokens(root: Path, n: int) -> None:
    """Write n tokens of a vocabulary of 50,257 as our training split and as nanoGPT's train.bin."""
    path = root / "train.bin"
    np.random.default_rng(0).integers(0, 50257, n).astype("<u2").tofile(path)
    shard = {"file": path.name, "tokens": n, "sha256": sha256(path)}
    splits = {"train": {"shards": [shard], "spans": []}}
    index = {"dtype": "uint16", "vocab_size": 50257, "eot": 50256, "splits": splits}
    (root / "index.json").write_text(json.dumps(index))


def nanogpt(checkout: Path, root: Path, rows: int, context: int) -> Side:
    """Return nanoGPT's get_batch, compiled from the checkout."""
    source = (checkout / "train.py").read_text()
    wanted = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "get_batch"
    ]
    names: dict[str, Any] = {"np": np, "torch": torch, "os": os, "data_dir": str(root)}
    names |= {"batch_size": rows, "block_size": context, "device": "cpu", "device_type": "cpu"}
    exec(compile(ast.Module(wanted, type_ignores=[]), "train.py", "exec"), names)
    return lambda: names["get_batch"]("train")


def ours(root: Path, rows: int, context: int, batches: int) -> Side:
    """Return pre-training's DataLoader, a micro-batch a step."""
    model = GPTConfig(n_positions=context)
    config = PretrainConfig(model=model, batch_size=rows, max_steps=batches, seed=1)
    source = Stream(read_split(root, "train"), context, config.seed)
    data = PretrainData(source, config, start=0, stop=batches)
    steps: Iterator[object] = iter(data.train_dataloader())
    return lambda: next(steps)


def seconds(side: Side) -> float:
    """Return the CPU seconds of one micro-batch."""
    start = time.process_time()
    for _ in islice(iter(side, None), BATCHES):
        pass
    return (time.process_time() - start) / BATCHES


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description="Micro-batches a second against nanoGPT's.")
    parser.add_argument(
        "--nanogpt", type=Path, required=True, help="a checkout of karpathy/nanoGPT"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--million-tokens", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=100, help="of a training step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(ROW.format("", "Mtok/s", "us", "x", "% of a step"))
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tokens(root, args.million_tokens * 10**6)
        for rows, context in SHAPES:
            sides = {
                "nanoGPT": nanogpt(args.nanogpt, root, rows, context),
                "textmill": ours(root, rows, context, BATCHES * args.rounds),
            }
            taken = [
                {name: seconds(side) for name, side in sides.items()} for _ in range(args.rounds)
            ]
            for name in sides:
                own = statistics.median(turn[name] for turn in taken)
                ratio = statistics.median(turn["nanoGPT"] / turn[name] for turn in taken)
                cells = (f"{rows * context / own / 1e6:.0f}", f"{own * 1e6:.0f}", f"{ratio:.1f}")
                share = f"{own * 1e5 / args.step_ms:.3f}"
                print(ROW.format(f"{name}, {rows} x {context}", *cells, share))


if __name__ == "__main__":
    main()
