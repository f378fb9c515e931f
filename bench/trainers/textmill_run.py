"""textmill trained for a given CPU time: Muon for the matrices, AdamW for the rest."""

import tempfile
import time
from pathlib import Path

from bench.trainers import answer, job
from modules.corpus.token_file import read_split
from modules.model import checkpoint
from modules.model.config import GPTConfig
from modules.training import loop
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.pretrain import PretrainData, PretrainModule, held_out

settings = job()
MODEL = {"n_positions": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}


def train(steps: int, folder: Path) -> tuple[float, PretrainModule]:
    """Train for some steps; return the CPU seconds of all but the first ten, and the module."""
    tokens, val = (read_split(Path(settings["tokens"]), split) for split in ("train", "val"))
    config = PretrainConfig(
        model=GPTConfig(vocab_size=tokens.vocab_size, **MODEL),
        optim=OptimConfig(optimizer="muon", warmup_steps=20, **settings["optim"]),
        batch_size=8,
        max_steps=steps,
        val_every=0,
        threads=1,
        seed=settings["seed"],
        checkpoint_every=10**6,
    )
    begin = [0.0]

    def watch() -> bool:
        if module.done == 10:
            begin[0] = time.process_time()
        return False

    module = PretrainModule(
        checkpoint.build(config.model), config, held_out(val, 256, 128), total=steps
    )
    data = PretrainData(tokens, config, start=0, stop=steps)
    safety = loop.Safety(folder, "", lambda event: None, watch)
    loop.prepare(config, safety)
    loop.run(module, data, config, safety, val_every=0, tokens=config.tokens_per_step)
    return time.process_time() - begin[0], module


with tempfile.TemporaryDirectory() as folder:
    each = train(40, Path(folder) / "trial")[0] / 30
    total = int(settings["seconds"] / each)
    seconds, module = train(total, Path(folder) / "run")
answer(steps=total, rate=total * 2048 / seconds, loss=module.validate()["val_loss"])
