"""How soon textmill's recipe reaches the loss that nanoGPT has after its time, on one core each.

    python -m bench.time_to_loss --nanogpt CHECKOUT --tokens DIRECTORY [--minutes 30]

Both train 6 layers of 384 features on the same tokens, contexts of 256, one thread. nanoGPT: its
train.py's recipe (AdamW, cosine to a tenth, clipping; `--lr` is tuned on shorter runs) at 2,048
tokens a step, bfloat16 where it is faster, torch.compile and fused AdamW. textmill: Muon, 4,096
tokens a step, cosine to 0, in two fifths of the time.
Time is CPU time of the process, without start and compilation, so that other work on the machine
does not count; the schedule's length is what fits into it at the rate of the first steps. The
held-out loss is of the same windows of the val split, in nats a token.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TRAINERS = {"nanogpt": "bench.trainers.nanogpt_run", "textmill": "bench.trainers.textmill_run"}


def run(name: str, options: argparse.Namespace, minutes: float, lr: float, seed: int) -> None:
    """Train once in a process of its own; print the held-out loss at the end."""
    paths = [str(Path.cwd()), options.nanogpt]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "LD_PRELOAD": "libtcmalloc_minimal.so.4"}
    job = {"tokens": options.tokens, "seconds": minutes * 60, "seed": seed, "threads": 1}
    job |= {"lr": lr, "optim": {"lr": lr, **json.loads(options.optim)}}
    job |= {"config": {"batch_size": 16, **json.loads(options.config)}}
    done = subprocess.run(
        [sys.executable, "-m", TRAINERS[name], json.dumps(job)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    cells = [name, seed, f"{lr:g}", f"{minutes:g}", result["steps"], f"{result['rate']:.0f}"]
    print("|", *(f"{cell} |" for cell in [*cells, f"{result['loss']:.4f}"]), flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", required=True, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--tokens", required=True, help="a tokens directory")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--lr", type=float, default=2e-3, help="nanoGPT's")
    parser.add_argument("--muon-lr", type=float, default=3.5e-3)
    parser.add_argument("--optim", default="{}", help="further settings of textmill, JSON")
    parser.add_argument("--config", default="{}", help="the same of its PretrainConfig")
    options = parser.parse_args()
    print("| trainer | seed | lr | CPU minutes | steps | tokens/s | held-out loss |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for seed in options.seeds:
        if "nanogpt" in options.sides:
            run("nanogpt", options, options.minutes, options.lr, seed)
        if "textmill" in options.sides:
            run("textmill", options, 0.4 * options.minutes, options.muon_lr, seed)


if __name__ == "__main__":
    main()
