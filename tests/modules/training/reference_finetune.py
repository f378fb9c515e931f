"""GPT-1's fine-tuning as straight-line arithmetic, written from reference/gpt1.md alone.

One sequence at a time, plain products, float64, nothing of `modules`. Weights are a dict by the
names of a checkpoint's file; sequences are token ids whose last one is the extract token.
"""

import math

import torch


def layer_norm(x, w, name):  # section 1: eps 1e-5 inside the root, population variance
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def affine(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x):  # section 1: the tanh approximation
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(x, w, name, n_head):  # section 1.1
    q, k, v = affine(x, w, f"{name}.c_attn").chunk(3, -1)
    size = x.shape[-1] // n_head
    heads = []
    for h in range(n_head):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        later = torch.ones_like(scores).triu(1).bool()
        heads.append(torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v[:, part])
    return affine(torch.cat(heads, -1), w, f"{name}.c_proj")


def mlp(x, w, name):
    return affine(gelu(affine(x, w, f"{name}.c_fc")), w, f"{name}.c_proj")


def features(ids, w, *, norm, n_layer, n_head):
    """The final block's output (T, C) for one sequence."""
    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for i in range(n_layer):
        name = f"h.{i}"
        if norm == "post":  # section 1.1
            n = layer_norm(x + attention(x, w, f"{name}.attn", n_head), w, f"{name}.ln_1")
            x = layer_norm(n + mlp(n, w, f"{name}.mlp"), w, f"{name}.ln_2")
        else:
            x = x + attention(layer_norm(x, w, f"{name}.ln_1"), w, f"{name}.attn", n_head)
            x = x + mlp(layer_norm(x, w, f"{name}.ln_2"), w, f"{name}.mlp")
    return x if norm == "post" else layer_norm(x, w, "ln_f")


def logits_of(states, w, form):
    """Section 4.6, from the states at the extract token of each of the example's sequences."""
    if form == "multiple_choice":
        return torch.cat([affine(state, w, "head") for state in states])
    return affine(sum(states), w, "head")


def loss(w, sizes, form, examples, labels, *, weight=0.5, average="sequence", scores=None):
    """Section 4.2: mean task loss + weight * mean LM loss; examples are lists of sequences."""
    task, sums, counts = [], [], []
    for sequences, label in zip(examples, labels, strict=True):
        states = []
        for sequence in sequences:
            ids = torch.tensor(sequence)
            x = features(ids, w, **sizes)
            states.append(x[-1])
            log_p = torch.log_softmax(x[:-1] @ w["wte.weight"].T, -1)
            sums.append(-log_p[torch.arange(len(ids) - 1), ids[1:]].sum())
            counts.append(len(ids) - 1)
        given = logits_of(states, w, form)
        if scores == "squared":
            task.append((given[0] - label) ** 2)
        elif scores == "classes":  # section 4.6: on floor(y) and the next
            log_p, low = torch.log_softmax(given, -1), math.floor(label)
            task.append(-(low - label + 1) * log_p[low])
            if label > low:
                task[-1] = task[-1] - (label - low) * log_p[low + 1]
        else:
            task.append(-torch.log_softmax(given, -1)[label])
    if average == "sequence":
        lm = sum(s / n for s, n in zip(sums, counts, strict=True)) / len(sums)
    else:
        lm = sum(sums) / sum(counts)
    return sum(task) / len(task) + weight * lm


def gradients(w, *args, **options):
    """The loss and each weight's gradient."""
    w = {name: t.detach().double().requires_grad_(True) for name, t in w.items()}
    value = loss(w, *args, **options)
    found = torch.autograd.grad(value, list(w.values()), allow_unused=True)
    return value.item(), {
        name: torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(w.items(), found, strict=True)
    }


def train(w, batches, *args, lr, total, **options):
    """Section 4.1: clip to norm 1, the release's Adam, warm-up 0.2 %, linear decay, t from 0."""
    w = {name: t.detach().double().clone() for name, t in w.items()}
    m = {name: torch.zeros_like(t) for name, t in w.items()}
    v = {name: torch.zeros_like(t) for name, t in w.items()}
    for t, (examples, labels) in enumerate(batches):
        _, grads = gradients(w, *args, examples, labels, **options)
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        x = t / total
        factor = (x / 0.002 if x <= 0.002 else 1.0) * (1 - x)
        bias = math.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        for name, g in grads.items():
            g = g / max(1.0, norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            decay = 0.01 * w[name] if w[name].ndim > 1 else 0.0
            step = m[name] / (v[name].sqrt() + 1e-8) + decay
            w[name] = w[name] - lr * factor * bias * step
    return w
