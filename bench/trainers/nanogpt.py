"""nanoGPT's model, from a checkout on the path."""

import torch
from model import GPT, GPTConfig

from bench.trainers import batch, job, plain_step, serve

settings = job()
best = settings["name"] == "nanogpt"
vocabulary = (settings["vocab"] + 63) // 64 * 64  # as its train.py: 50,304
sizes = {name: settings[name] for name in ("n_layer", "n_embd", "n_head")}
config = GPTConfig(
    block_size=settings["context"], vocab_size=vocabulary, dropout=0.0, bias=True, **sizes
)
model = GPT(config)
call = torch.compile(model) if best else model
tokens, targets = batch(settings)
serve(plain_step(model, lambda: call(tokens, targets)[1], best=best))
