"""How large a run is, before it starts: parameters, arithmetic, memory, tokens.

Arithmetic is counted as in PaLM (Chowdhery et al. 2022, appendix B) and nanoGPT (model.py,
estimate_mfu): 6 N for the products with weights, 12 L C T for attention, forward and backward.
Memory is read off the model's own tensors. One or two of its blocks run here on one or two rows,
in each precision; what they keep for the way back is a linear function of blocks and rows.
"""

import gc
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import profile

from modules.kernels import ops
from modules.kernels.build import element
from modules.kernels.gradients import in_place_gradients
from modules.kernels.room import Loan, Room
from modules.model import checkpoint
from modules.model.base import CHUNK, skeleton
from modules.model.config import GPTConfig, LSTMConfig
from modules.model.gpt import GPT
from modules.training.config import PretrainConfig
from modules.training.optim import is_hidden_matrix

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr of every start

ModelConfig = GPTConfig | LSTMConfig
PRECISIONS = ("32-true", "bf16-mixed")

CHINCHILLA = 20  # tokens a parameter (Hoffmann et al. 2022, Table 3: 20.0 to 21.8 a parameter)
GPT2_TOKENS = 600_000 * 491_520  # nanoGPT, config/train_gpt2.py; the GPT-2 paper does not say
OPENWEBTEXT = 9_035_582_198  # tokens (nanoGPT, data/openwebtext/prepare.py): GPT2_TOKENS = 32.6 x


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token, forward and backward."""

    weights: int  # products with weights
    attention: int  # products of queries, keys and values

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.attention


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step's tensors."""

    weights: int
    gradients: int
    moments: int  # the optimizer's state
    activations: int  # what one micro-batch keeps for the way back
    passing: int  # the most that comes and goes: a chunk of logits, or a block's way back
    held: int  # gradients that are there from the start: of other micro-batches, or their room

    @property
    def total(self) -> int:
        """The most at once: before the way back, or when all gradients are there."""
        before = self.held + self.activations + self.passing
        return self.weights + self.moments + max(before, self.gradients)


def flops_per_token(config: ModelConfig, context: int) -> Flops:
    """Return what a token costs: 6 N + 12 L C T (PaLM, appendix B).

    N counts the weights that multiply: no position embedding, and the token embedding once, as the
    output matrix.
    """
    if isinstance(config, LSTMConfig):
        lookup = 0 if config.tied else config.vocab_size * config.n_embd
        return Flops(6 * (config.n_params - lookup), 0)
    matrices = config.n_params - config.n_positions * config.n_embd
    return Flops(6 * matrices, 12 * config.n_layer * config.n_embd * context)


def step_tokens(config: PretrainConfig) -> int:
    """Return the tokens of one optimizer step, once ramps are over."""
    return config.accumulate * config.batch_size * config.window


def memory(config: PretrainConfig, precision: str, rows: int) -> Memory:
    """Return the bytes of one step with micro-batches of `rows` rows on one device."""
    with skeleton():
        shapes = dict(checkpoint.build(config.model).named_parameters())
    muon = config.optim.optimizer == "muon"
    moments = sum(
        p.nbytes * (1 if muon and is_hidden_matrix(name, p) else 2) for name, p in shapes.items()
    )
    weights = sum(p.nbytes for p in shapes.values())
    lends = config.accumulate == config.ranks == 1 and config.device_kind == "cpu"
    lent, logits = lent_bytes(config, precision, rows) if lends else (0, 0)
    return Memory(
        weights=weights,
        gradients=weights,
        moments=moments,
        activations=activations(config, precision, rows) - lent,
        passing=passing_bytes(config, precision, rows, logits),
        held=weights if config.accumulate > 1 else held_gradients(config, precision),
    )


def activations(config: PretrainConfig, precision: str, rows: int) -> int:
    """Return the bytes that the forward pass of `rows` rows keeps for the way back."""

    def of_depth(blocks: int) -> float:
        model = _of_depth(config.model, blocks)
        return _line(lambda n: _kept(model, n, config.window, precision), rows)

    if isinstance(config.model, LSTMConfig):
        return round(of_depth(1))
    return round(_line(of_depth, config.model.n_layer))


def lent_bytes(config: PretrainConfig, precision: str, rows: int) -> tuple[int, int]:
    """Return the bytes of activations and of logits that lie where gradients will be (room.py)."""
    with skeleton():
        model = checkpoint.build(config.model).train()
    width, kind = config.model.n_embd, element()
    with _products_in(precision):
        if not isinstance(model, GPT) or not model.by_kernels(torch.empty(1, 1, width)):
            return 0, 0
    assert kind is not None
    one, lent = rows * config.window * kind.itemsize, 0
    weights = dict(model.h.named_parameters())
    room, loans = Room(list(weights.values())), []
    for name, start in zip(weights, room.starts, strict=True):
        if name.endswith(("ln_1.weight", "ln_2.weight")):
            loans.append(Loan(room, start))
            keeps = ops.ATTENTION_KEEPS if "ln_1" in name else ops.MLP_KEEPS
            sizes = [n * one * width for n in keeps]
            lent += sum(size for size in sizes if loans[-1].take(size) is not None)
    rest, n = Loan(room, room.size), rows * config.window
    row = ops.padded(config.model.vocab_size) * kind.itemsize
    at_once = min(n, max(1, max(ops.HELD, rest.left) // row))
    fits = rest.take(at_once * row) is not None
    return lent, min(n, ops.HELD // row) * row if fits else 0


def passing_bytes(config: PretrainConfig, precision: str, rows: int, lent: int = 0) -> int:
    """Return the most that the loss holds, or the last block's way back beside what stays of it.

    Both come on top of what the forward pass kept; so many bytes of logits lie elsewhere.
    """
    head, n = _of_depth(config.model, 1), rows * config.window
    chunk = max(1, max(CHUNK, ops.HELD // 2) // config.model.vocab_size)  # 2: bytes of a logit

    def loss(which: int) -> float:
        """Return the most (0) or what stays (1): linear in positions beyond a chunk."""

        def at(positions: int) -> int:
            return _loss(head, precision, positions, config.accumulate > 1)[which]

        return at(n) if n <= chunk else at(chunk) + (at(2 * chunk) - at(chunk)) * (n / chunk - 1)

    way_back = _line(lambda k: _way_back(head, k, config.window, precision), rows)
    return round(max(loss(0) - lent, loss(1) + way_back))


@cache
def _way_back(config: ModelConfig, rows: int, context: int, precision: str) -> int:
    model = checkpoint.build(config.but(vocab_size=2)).train()
    with in_place_gradients(True), _products_in(precision):
        for _ in range(2):  # the first one makes room for gradients that stay
            model.zero_grad(set_to_none=True)
            hidden = model(torch.zeros(rows, context, dtype=torch.int64))
            towards = torch.ones_like(hidden)
            most = peak_bytes(partial(hidden.backward, towards))
    return most


def held_gradients(config: PretrainConfig, precision: str) -> int:
    """Return the bytes of gradients whose room stays from one step to the next."""

    def of_depth(blocks: int) -> float:
        return _held(_of_depth(config.model, blocks), precision)

    if isinstance(config.model, LSTMConfig):
        return round(of_depth(1))
    return round(_line(of_depth, config.model.n_layer))


@cache
def _held(config: ModelConfig, precision: str) -> int:
    model = checkpoint.build(config)
    tokens = torch.zeros(1, 3, dtype=torch.int64)

    def step() -> None:
        with in_place_gradients(True), _products_in(precision):
            model.lm_loss(tokens[:, :-1], tokens[:, 1:]).backward()
        model.zero_grad(set_to_none=True)

    return traced_bytes(step)[-1]


@cache
def _loss(config: ModelConfig, precision: str, n: int, accumulates: bool) -> tuple[int, int]:
    """Return the most that the loss of n positions and its way back hold, and what stays."""
    head = checkpoint.build(config)
    with _products_in(precision):
        hidden = head(torch.zeros(1, 1, dtype=torch.int64)).detach()  # of the type it has
    hidden = hidden.expand(1, n, -1).clone().requires_grad_()
    targets, weights = torch.zeros(1, n, dtype=torch.int64), torch.full((1, n), 1 / n)

    def step() -> None:
        with in_place_gradients(True), _products_in(precision):
            head.weighted_loss(hidden, targets, weights).backward()
        hidden.grad = None

    step()
    if not accumulates:
        head.zero_grad(set_to_none=True)
    ops.release()
    held = traced_bytes(step)
    return max(held), held[-1]


def peak_bytes(action: Callable[[], None]) -> int:
    """Return the most bytes of CPU tensors that an action holds above what was there before."""
    return max(traced_bytes(action))


def traced_bytes(action: Callable[[], None]) -> list[int]:
    """Return the bytes of CPU tensors above what was there, from the start of an action to its end.

    A collection beforehand, or what is freed of older things would count against it.
    """
    gc.collect()
    with profile(profile_memory=True) as profiled:
        action()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        return trace_bytes(trace, device=0)


def trace_bytes(trace: Path, *, device: int) -> list[int]:
    """Return what a profiler's trace sees held, after each change; device 0: CPU, 1: CUDA."""
    events = [
        (event["ts"], event["args"]["Bytes"])
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == device
    ]
    events.sort(key=lambda event: event[0])
    return list(accumulate((size for _, size in events), initial=0))


@cache
def _kept(config: ModelConfig, rows: int, context: int, precision: str) -> int:
    """Return the bytes that one forward pass keeps beside the weights, each storage once."""
    model = checkpoint.build(config.but(vocab_size=2))  # the output matrix is counted as loss
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved  # stays alive, so that no other storage takes its place

    tokens = torch.zeros(rows, context, dtype=torch.int64)
    with saved_tensors_hooks(note, lambda saved: saved), _products_in(precision):
        hidden = model.train()(tokens)
    del hidden
    return sum(kept.values())


def _products_in(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed")


def _of_depth(model: ModelConfig, blocks: int) -> ModelConfig:
    return model if isinstance(model, LSTMConfig) else model.but(n_layer=blocks)


def _line(at: Callable[[int], float], x: int) -> float:
    """Return at(x) of a linear function, from its values at 1 and 2."""
    one = at(1)
    return one if x == 1 else one + (at(2) - one) * (x - 1)
