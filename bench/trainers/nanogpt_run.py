"""nanoGPT trained by its own recipe for a given CPU time, from a checkout on the path."""

import math
import time
from pathlib import Path

import torch
from model import GPT, GPTConfig

from bench.trainers import answer, bf16, job
from modules.corpus.token_file import read_split
from modules.training.windows import held_out

settings = job()
torch.manual_seed(settings["seed"])
BATCH, CONTEXT, WARMUP = 8, 256, 100
HALF = bf16()
tokens, val = (read_split(Path(settings["tokens"]), split) for split in ("train", "val"))
data = torch.from_numpy(tokens.read(0, len(tokens)))
windows = held_out(val, CONTEXT, 128)
assert windows is not None
vocabulary = (tokens.vocab_size + 63) // 64 * 64
model = GPT(
    GPTConfig(
        block_size=CONTEXT, vocab_size=vocabulary, n_layer=6, n_head=6, n_embd=384, dropout=0.0
    )
)
call = torch.compile(model)
decayed = [p for p in model.parameters() if p.dim() >= 2]
others = [p for p in model.parameters() if p.dim() < 2]
groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=(0.9, 0.95), fused=True)


def rate(step: int, total: int) -> float:
    """Return the learning rate of a step, as train.py's get_lr does."""
    if step < WARMUP:
        return settings["lr"] * (step + 1) / (WARMUP + 1)
    along = (step - WARMUP) / max(1, total - WARMUP)
    return settings["lr"] * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, along))))


def step(lr: float) -> None:
    """Do one update on random windows."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    starts = torch.randint(len(data) - CONTEXT, (BATCH,))
    x = torch.stack([data[i : i + CONTEXT] for i in starts])
    y = torch.stack([data[i + 1 : i + 1 + CONTEXT] for i in starts])
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
        _, loss = call(x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


start = {name: p.detach().clone() for name, p in model.named_parameters()}
for _ in range(3):
    step(0.0)
begin = time.process_time()
for _ in range(10):
    step(0.0)
each = (time.process_time() - begin) / 10
total = int(settings["seconds"] / each)
with torch.no_grad():
    for name, p in model.named_parameters():
        p.copy_(start[name])
optimizer.state.clear()
begin, done = time.process_time(), 0
while (spent := time.process_time() - begin) < settings["seconds"]:
    along = total * spent / settings["seconds"]  # the schedule ends with the time
    step(rate(done if done < WARMUP else int(along), total))
    done += 1
model.eval()
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=HALF):
    parts = windows.split(BATCH)
    losses = [model(w[:, :-1], w[:, 1:].contiguous())[1] * len(w) for w in parts]
tokens_per_second = done * BATCH * CONTEXT / settings["seconds"]
answer(steps=done, rate=tokens_per_second, loss=float(sum(losses)) / len(windows))
