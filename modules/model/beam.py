"""Beam search: the likeliest continuation that a few hypotheses side by side find.

Scores are sums of log-probabilities over length to a power; the search ends when no running
hypothesis can beat the worst of as many finished ones, as in transformers' `generate(num_beams=)`.
B beams, C features, V vocabulary.
"""

from collections.abc import Callable

import torch

from modules.model.gpt import GPT
from modules.model.lstm import LSTM


@torch.no_grad()
def beam_search(
    model: GPT | LSTM,
    prompt: list[int],
    count: int,
    num_beams: int,
    length_penalty: float,
    ends: Callable[[list[int]], bool],
) -> list[int]:
    """Return the best continuation of at most `count` tokens; `ends` says where one is finished."""
    cache = model.new_cache(1, len(prompt) + count)
    tokens, beams, scores = torch.tensor([prompt]), [list[int]()], torch.zeros(1)
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, count + 1):
        hidden = model(tokens.to(model.device), cache)[:, -1]  # (B, C)
        totals = scores[:, None] + model.logits(hidden).float().log_softmax(-1).cpu()  # (B, V)
        # Twice as many as there are beams: so many go on where as many come to their end.
        scores, flat = totals.flatten().topk(min(2 * num_beams, totals.numel()))
        rows, ids = (flat // totals.shape[1]).tolist(), (flat % totals.shape[1]).tolist()
        found = [[*beams[row], i] for row, i in zip(rows, ids, strict=True)]
        done = [length == count or ends(new) for new in found]
        values = (scores / length**length_penalty).tolist()
        finished += [(values[i], found[i]) for i in range(min(num_beams, len(found))) if done[i]]
        finished = sorted(finished, key=lambda pair: -pair[0])[:num_beams]
        running = [i for i in range(len(found)) if not done[i]][:num_beams]
        full = len(finished) == num_beams
        if not running or (full and values[running[0]] <= finished[-1][0]):
            break
        beams, scores = [found[i] for i in running], scores[running]
        cache = cache.take([rows[i] for i in running])
        tokens = torch.tensor([[ids[i]] for i in running])
    return finished[0][1]
