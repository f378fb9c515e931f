"""Decode one row on a CPU beside transformers' `generate`, in turns.

    python -m bench.generate [--tokens 128] [--turns 5] [--threads 2 | --cpu-time]

GPT-2 small with random weights (12 layers of 768, vocabulary 50,257), greedy, batch 1. Each turn
times textmill, transformers in bfloat16 and in float32, and the read bandwidth of memory. The limit
is that bandwidth over the bytes of the weights that a token reads, in bfloat16; textmill guesses
with int8 weights, so it may pass it. Prompts differ from turn to turn; every turn's tokens are
compared with transformers'. `--cpu-time` counts one thread's CPU seconds: for machines that are not
idle.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers

from modules.model import checkpoint, decode
from modules.model.generate import GenerationConfig, generate
from modules.model.gpt import GPT, GPTConfig
from modules.model.weights import export_hf

Decode = Callable[[list[int]], list[int]]
Clock = Callable[[], float]


def peer(folder: Path, dtype: torch.dtype, count: int) -> Decode:
    """Return transformers' greedy `generate` in a type."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def run(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return list(out[0, len(prompt) :].tolist())

    return run


def bandwidth(room: torch.Tensor, clock: Clock) -> float:
    """Return the bytes per second of adding up a large tensor."""
    best = 0.0
    for _ in range(5):
        start = clock()
        room.sum()
        best = max(best, room.numel() * room.element_size() / (clock() - start))
    return best


def timed(run: Decode, prompt: list[int], clock: Clock) -> tuple[float, list[int]]:
    """Return tokens per second, and the tokens."""
    start = clock()
    tokens = run(prompt)
    return len(tokens) / (clock() - start), tokens


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--std", type=float, default=0.02, help="of the random weights")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of one thread")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(1 if options.cpu_time else options.threads)
    torch.manual_seed(0)
    model = GPT(GPTConfig(init_std=options.std)).eval()
    config = GenerationConfig(max_new_tokens=options.tokens, temperature=0, batch_size=1)
    with tempfile.TemporaryDirectory() as name:
        checkpoint.save(model, Path(name) / "ours")
        export_hf(Path(name) / "ours", Path(name) / "hf")
        sides: dict[str, Decode] = {
            "textmill": lambda prompt: generate(model, [prompt], config)[0],
            "transformers bf16": peer(Path(name) / "hf", torch.bfloat16, options.tokens),
            "transformers fp32": peer(Path(name) / "hf", torch.float32, options.tokens),
        }
    room, rates = torch.ones(2**26), {name: [] for name in [*sides, "limit"]}  # 256 MiB
    weights = 2 * (model.config.n_params - model.config.n_positions * model.config.n_embd)  # bytes
    same = {"transformers bf16": 0, "transformers fp32": 0}
    for run in sides.values():
        run([1, 2, 3])  # warm
    for turn in range(options.turns):
        prompt = torch.randint(0, 50257, (16,)).tolist()
        rates["limit"].append(bandwidth(room, clock) / weights)
        tokens = {}
        for side, run in sides.items():
            rate, tokens[side] = timed(run, prompt, clock)
            rates[side].append(rate)
        for side in same:
            same[side] += sum(a == b for a, b in zip(tokens["textmill"], tokens[side], strict=True))
        print(f"turn {turn}: " + ", ".join(f"{n} {r[-1]:.1f}" for n, r in rates.items()))
    report(rates, same, options.turns * options.tokens)
    print(f"own kernels: {decode.usable(model)}; {torch.get_num_threads()} threads")


def report(rates: dict[str, list[float]], same: dict[str, int], tokens: int) -> None:
    """Print medians, and medians of the ratios within a turn."""
    print("\n|  | tokens/s | textmill is | tokens equal to textmill's |\n|---|---:|---:|---:|")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["textmill"], found, strict=True))
        equal = f"{same[name]} of {tokens}" if name in same else ""
        print(f"| {name} | {statistics.median(found):.1f} | {ratio:.2f} x | {equal} |")


if __name__ == "__main__":
    main()
