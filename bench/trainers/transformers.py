"""The GPT-2 of transformers, with its own loss."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.trainers import batch, job, plain_step, serve

settings = job()
sizes = {name: settings[name] for name in ("n_layer", "n_embd", "n_head")}
config = GPT2Config(
    vocab_size=settings["vocab"],
    n_positions=settings["context"],
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    use_cache=False,
    attn_implementation="sdpa",
    **sizes,
)
model = GPT2LMHeadModel(config)
call = torch.compile(model)
tokens, _ = batch(settings)
serve(plain_step(model, lambda: call(input_ids=tokens, labels=tokens).loss, best=True))
