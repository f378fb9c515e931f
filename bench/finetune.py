"""Fine-tuning by textmill beside `transformers.Trainer`, the same weights on the same rows.

    python -m bench.finetune [--sets social_iqa ...] [--shapes 4x256 12x768] [--turns 3]

Rows are the sample sets of ../shared/data/finetune in the ids of one tokenizer (50,257 tokens,
trained on the sets' own text, or --tokenizer), weights random, in GPT-2's shape, exported for
transformers by textmill. Each trainer is a process of its own; a turn is one pass over the rows,
and all take turns, so only ratios count. transformers gets dynamic padding, length groups and fused
AdamW; both sides tcmalloc where it is installed, the same precision, batch 32 and no dropout in
the decoder. `--cpu-time` counts CPU seconds: for machines that are not idle. Needs the extra `hub`.
"""

import argparse
import ctypes.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.pretrain import Trainer
from modules import tasks
from modules import tokenizer as bpe
from modules.files import read_jsonl
from modules.model import checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.model.weights import export_hf
from modules.task import load_rows
from modules.training.transform import N_SPECIAL, Encoded, encode, sample

SETS = {  # rows a turn reads: whole batches, at most some hundred thousand tokens
    **{"intents_snips": 512, "passage_author": 512, "question_in_sentence": 512, "vitaminc": 512},
    **{"verse_pairs": 256, "social_iqa": 512, "next_passage": 128},
}
SHAPES = {
    "4x256": {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "12x768": {"n_layer": 12, "n_embd": 768, "n_head": 12},
}
POSITIONS, BATCH = 512, 32  # GPT-1 paper, section 4.1
SIDES = {
    "textmill": "textmill_finetune",
    "transformers": "transformers_finetune",
    "textmill, LM": "textmill_finetune",
    "transformers, one order": "transformers_finetune",  # similarity: half of the work
}


def tokenizer_at(path: Path, data: Path) -> bpe.Tokenizer:
    """Return the tokenizer of a folder, trained on the sets' rows if it is not there."""
    if not path.exists():
        files = [data / f"finetune/{name}/train.jsonl" for name in SETS]
        rows = (row for file in files for row in read_jsonl(file))
        texts = (" ".join(v for v in row.values() if isinstance(v, str)) for row in rows)
        bpe.train(texts, path, bpe.TokenizerConfig(vocab_size=50257))
    return bpe.load(path)


def start(name: str, settings: dict[str, Any], folder: Path) -> Trainer:
    """Start a trainer and let it do one pass over the rows to get warm."""
    library = ctypes.util.find_library("tcmalloc_minimal")
    variables = {"PYTHONPATH": str(Path.cwd()), "TOKENIZERS_PARALLELISM": "false"}
    job = json.dumps({**settings, "name": name, "folder": str(folder)})
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.trainers.{SIDES[name]}", job],
        env={**os.environ, **variables} | ({"LD_PRELOAD": library} if library else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / f"{name}.log").open("w"),
        text=True,
    )
    trainer = Trainer(name, process, [])
    try:
        trainer.ask("3")
    except SystemExit:
        raise SystemExit((folder / f"{name}.log").read_text()) from None
    return trainer


def prepare(
    name: str, shape: str, tokenizer: bpe.Tokenizer, options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], list[Encoded]]:
    """Write rows and weights for both sides; return what the trainers are told, and the rows."""
    task = tasks.get(name)
    vocabulary = tokenizer.n_vocab
    items = task.items(load_rows(task, options.data, "train"))
    encoded = encode(items, tokenizer, task.format, first=vocabulary, longest=POSITIONS)
    chosen = list(sample(encoded, min(SETS[name], options.rows), 0))
    rows = [{"sequences": e.sequences, "label": e.label} for e in chosen]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = GPT(GPTConfig(vocab_size=vocabulary, n_positions=POSITIONS, **SHAPES[shape]))
    model.resize(N_SPECIAL)
    checkpoint.save(model, folder / "ours")
    tokenizer.save(folder / "ours/tokenizer")
    export_hf(folder / "ours", folder / "hf")
    classes = max(1, len(task.labels))
    told = {"format": task.format, "classes": classes, "pad": vocabulary - 1, "batch": BATCH}
    return {**told, "threads": options.threads, "cpu_time": options.cpu_time}, chosen


def measure(name: str, shape: str, tokenizer: bpe.Tokenizer, options: argparse.Namespace) -> None:
    """Let the trainers of one set take turns in each precision, and print a row for each."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        settings, rows = prepare(name, shape, tokenizer, options, folder)
        for precision in options.precisions:
            told = {**settings, "bf16": precision == "bf16"}
            names = [s for s in SIDES if settings["format"] == "similarity" or "one" not in s]
            sides = [start(side, told, folder) for side in names]
            for _ in range(options.turns):
                for side in sides:
                    answer = side.ask(str(len(rows) // BATCH))
                    side.rates.append(len(rows) / answer["seconds"])
            for side in sides:
                side.process.kill()
                side.process.wait()
            report(f"{name}, {shape}, {precision}", rows, {s.name: s.rates for s in sides})


def report(title: str, rows: list[Encoded], rates: dict[str, list[float]]) -> None:
    """Print medians of examples/s, and of the ratios to transformers within a turn."""
    tokens = statistics.mean(e.tokens for e in rows)
    theirs = rates["transformers"]
    cells = []
    for side, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, theirs, strict=True))
        cells.append(f"{side} {statistics.median(found):.1f} ({ratio:.2f} x)")
    print(f"| {title} | {tokens:.0f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tokenizer", type=Path, default=Path(tempfile.gettempdir()) / "bench-bpe")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["4x256"])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--rows", type=int, default=512, help="at most so many a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if not (options.data / "finetune").is_dir():
        raise SystemExit(f"{options.data}/finetune is not there: give --data")
    tokenizer = tokenizer_at(options.tokenizer, options.data)
    print("| set | tokens/example | examples/s (beside transformers) |\n|---|---:|---|")
    for shape in options.shapes:
        for name in options.sets:
            measure(name, shape, tokenizer, options)


if __name__ == "__main__":
    main()
