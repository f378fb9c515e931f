"""litgpt's model at GPT-2's shape (rotary positions: it has no learned ones), tied output."""

import torch
import torch.nn.functional as F
from litgpt.config import Config
from litgpt.model import GPT

from bench.trainers import batch, job, plain_step, serve

settings = job()
sizes = {name: settings[name] for name in ("n_layer", "n_embd", "n_head")}
config = Config(
    name="bench",
    block_size=settings["context"],
    vocab_size=settings["vocab"],
    padded_vocab_size=(settings["vocab"] + 63) // 64 * 64,
    parallel_residual=False,
    bias=True,
    **sizes,
)
model = GPT(config)
model.lm_head.weight = model.transformer.wte.weight
call = torch.compile(model)
tokens, targets = batch(settings)


def loss() -> torch.Tensor:
    logits = call(tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


serve(plain_step(model, loss, best=True))
