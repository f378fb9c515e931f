"""textmill's training loop, stopped between steps to wait for its turn."""

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np

from bench.trainers import answer, job
from modules.corpus.token_file import TokenFile
from modules.model import checkpoint
from modules.model.config import GPTConfig
from modules.training import loop
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.corpora import HeldOut
from modules.training.lm import PretrainData, PretrainModule
from modules.training.windows import Stream

settings = job()
TOKENS, STEPS = 2**22, 1_000_000


def write_tokens(folder: Path) -> Path:
    """Write a tokens directory of random ids."""
    vocabulary = settings["vocab"]
    ids = np.random.default_rng(0).integers(0, vocabulary, TOKENS).astype("<u2")
    folder.mkdir()
    ids.tofile(folder / "train.bin")
    shard = {"file": "train.bin", "tokens": TOKENS, "sha256": ""}
    split = {"shards": [shard], "spans": []}
    index = {"vocab_size": vocabulary, "eot": 0, "dtype": "uint16", "splits": {"train": split}}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


class Turns:
    """Asked after each step; waits for the next turn when one is over."""

    def __init__(self) -> None:
        self.left, self.begin = int(sys.stdin.readline()), time.perf_counter()

    def __call__(self) -> bool:
        """Return True at the end of the input."""
        self.left -= 1
        if self.left:
            return False
        answer(seconds=time.perf_counter() - self.begin)
        line = sys.stdin.readline()
        self.left, self.begin = int(line or 0), time.perf_counter()
        return not line


def main() -> None:
    """Train until the turns are over."""
    folder = Path(settings["folder"])
    sizes = {name: settings[name] for name in ("n_layer", "n_embd", "n_head")}
    model = GPTConfig(vocab_size=settings["vocab"], n_positions=settings["context"], **sizes)
    config = PretrainConfig(
        model=model,
        optim=OptimConfig(warmup_steps=100),
        batch_size=settings["batch"],
        max_steps=STEPS,
        val_every=0,
        threads=settings["threads"],
        checkpoint_every=STEPS,
    )
    tokens = TokenFile(write_tokens(folder / "tokens"), "train")
    rows = Stream(tokens, config.window, config.seed)
    gc.freeze()  # as modules/training/fork_server.py does for each training
    module = PretrainModule(checkpoint.build(model), config, HeldOut(), total=STEPS)
    data = PretrainData(rows, config, start=0, stop=STEPS)
    safety = loop.Safety(folder / "state", "", lambda event: None, Turns())
    loop.run(module, data, config, safety, val_every=0, tokens=config.tokens_before)


main()
