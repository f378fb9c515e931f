"""How large a run is, before it starts: parameters, arithmetic, memory, tokens.

Arithmetic is counted as in PaLM (Chowdhery et al. 2022, appendix B) and nanoGPT (model.py,
estimate_mfu): 6 N for the products with weights, 12 L C T for attention, forward and backward.
Memory is read off the model's own tensors. One or two of its blocks run here on one or two rows,
in each precision; what they keep for the way back is a linear function of blocks and rows.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import profile

from modules.model import checkpoint
from modules.model.base import CHUNK, skeleton
from modules.model.config import GPTConfig, LSTMConfig
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
    loss: int  # logits of a chunk of positions, and the output matrix's gradient
    accumulates: bool  # gradients of earlier micro-batches are there from the start

    @property
    def total(self) -> int:
        """The most that is there at once: when the loss is made, or when all gradients are."""
        held = self.gradients if self.accumulates else 0
        passing = max(held + self.activations + self.loss, self.gradients)
        return self.weights + self.moments + passing


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


def memory(config: PretrainConfig, precision: str, rows: int) -> Memory:
    """Return the bytes of one step with micro-batches of `rows` rows on one device."""
    with skeleton():
        shapes = dict(checkpoint.build(config.model).named_parameters())
    muon = config.optim.optimizer == "muon"
    moments = sum(
        p.nbytes * (1 if muon and is_hidden_matrix(name, p) else 2) for name, p in shapes.items()
    )
    weights = sum(p.nbytes for p in shapes.values())
    return Memory(
        weights=weights,
        gradients=weights,
        moments=moments,
        activations=activations(config, precision, rows),
        loss=loss_bytes(config, precision, rows),
        accumulates=config.accumulate > 1,
    )


def activations(config: PretrainConfig, precision: str, rows: int) -> int:
    """Return the bytes that the forward pass of `rows` rows keeps for the way back."""

    def of_depth(blocks: int) -> float:
        model = _of_depth(config.model, blocks)
        return _line(lambda n: _kept(model, n, config.window, precision), rows)

    if isinstance(config.model, LSTMConfig):
        return round(of_depth(1))
    return round(_line(of_depth, config.model.n_layer))


def loss_bytes(config: PretrainConfig, precision: str, rows: int) -> int:
    """Return the most that the loss and its way back hold, for as many positions as one chunk."""
    chunk = max(1, CHUNK // config.model.vocab_size)
    return _loss_bytes(_of_depth(config.model, 1), precision, min(rows * config.window, chunk))


@cache
def _loss_bytes(model: ModelConfig, precision: str, n: int) -> int:
    head = checkpoint.build(model)
    hidden = torch.randn(1, n, head.width, requires_grad=True)
    targets, weights = torch.zeros(1, n, dtype=torch.int64), torch.full((1, n), 1 / n)

    def step() -> None:
        with _products_in(precision):
            loss = head.weighted_loss(hidden, targets, weights)
        loss.backward()

    return peak_bytes(step)


def peak_bytes(action: Callable[[], None]) -> int:
    """Return the most bytes of CPU tensors that an action holds above what was there before."""
    with profile(profile_memory=True) as profiled:
        action()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        return trace_peak(trace, device=0)


def trace_peak(trace: Path, *, device: int) -> int:
    """Return the most bytes that a profiler's trace sees held at once; device 0: CPU, 1: CUDA."""
    events = [
        (event["ts"], event["args"]["Bytes"])
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == device
    ]
    held = accumulate(size for _, size in sorted(events, key=lambda event: event[0]))
    return max(held, default=0)


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
