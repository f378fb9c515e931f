"""textmill trained for a given CPU time: Muon for the matrices, AdamW for the rest."""

import tempfile
import time
from pathlib import Path

from bench.trainers import answer, job
from modules.corpus.token_file import read_index
from modules.model import checkpoint
from modules.model.config import GPTConfig
from modules.training import loop
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.corpora import Corpora
from modules.training.lm import PretrainData, PretrainModule

settings = job()
RECIPE = {"optimizer": "muon", "embedding_lr_ratio": 0.7, "warmup_steps": 20, "min_lr_fraction": 0}
MODEL = {"n_positions": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}


def train(steps: int, folder: Path) -> tuple[float, PretrainModule]:
    """Train for some steps; return the CPU seconds of all but the first ten, and the module."""
    tokens = Path(settings["tokens"])
    config = PretrainConfig(
        model=GPTConfig(vocab_size=read_index(tokens)["vocab_size"], **MODEL),
        optim=OptimConfig.model_validate(RECIPE | settings["optim"]),
        max_steps=steps,
        val_every=0,
        threads=1,
        seed=settings["seed"],
        checkpoint_every=10**6,
        **settings["config"],
    )
    safety = loop.Safety(folder, "", lambda event: None, lambda: watch())
    begin = [0.0]

    def watch() -> bool:
        if module.done == 10:
            begin[0] = time.process_time()
        return False

    corpora = Corpora({"tokens": tokens}, config)
    loop.prepare(config, safety)
    module = PretrainModule(
        checkpoint.build(config.model), config, corpora.held_out(128), total=steps
    )
    data = PretrainData(corpora.rows, config, start=0, stop=steps)
    loop.run(module, data, config, safety, val_every=0, tokens=config.tokens_before)
    return time.process_time() - begin[0], module


with tempfile.TemporaryDirectory() as folder:
    each = train(30, Path(folder) / "trial")[0] / 20
    total = int(settings["seconds"] / each)
    seconds, module = train(total, Path(folder) / "run")
    tokens_read = module.config.tokens_before(total) - module.config.tokens_before(10)
answer(steps=total, rate=tokens_read / seconds, loss=module.validate()["val_loss"])
