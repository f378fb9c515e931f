"""The plan's counts: against published counts, and against real steps."""

from itertools import product

import pytest
import torch
from torch import nn

from modules.kernels import ops
from modules.kernels.gradients import in_place_gradients
from modules.model import checkpoint
from modules.model.config import GPTConfig, LSTMConfig
from modules.training import plan
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.optim import build_optimizers, optimizer_tensors
from tests.modules.kernels.test_ops import here, in_bfloat16

PRE = GPTConfig(vocab_size=1000, n_positions=64, n_layer=4, n_embd=64, n_head=2)
POST = PRE.but(norm="post", embd_dropout=0.1, attn_dropout=0.1, resid_dropout=0.1)
WIDE_HEAD = PRE.but(vocab_size=20_000, n_layer=3)
RECURRENT = LSTMConfig(vocab_size=1000, n_positions=64, n_embd=64, n_units=96)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # nanoGPT's estimate_mfu on its 124M model: N = 124,439,808 - 1,024 x 768
        (GPTConfig(), 6 * 123_653_376 + 12 * 12 * 12 * 64 * 1024),
        (GPTConfig(n_layer=48, n_embd=1600, n_head=25), 6 * 1_555_972_800 + 12 * 48 * 1600 * 1024),
    ],
)
def test_flops_are_nanogpts(config, count):
    assert plan.flops_per_token(config, 1024).total == count


def test_an_untied_lookup_multiplies_nothing():
    tied, untied = (plan.flops_per_token(RECURRENT.but(tied=x), 64).total for x in (True, False))
    assert untied - tied == 6 * (1000 * 96 - (1000 * 64 + 64 * 97))


@pytest.fixture
def one_thread():
    """Measure as the step runs: attention holds a buffer for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for measured in (plan._way_back, plan._held, plan._loss, plan._kept):
        measured.cache_clear()
    yield
    torch.set_num_threads(before)


def cases():
    """Each model with each recipe and precision; beyond "pre" one of each, the rest are slow."""
    models = {"pre": PRE, "post": POST, "wide": WIDE_HEAD, "lstm": RECURRENT}
    recipes = list(product([("adamw", 1), ("muon", 2)], plan.PRECISIONS))
    for (i, (name, model)), (j, (recipe, precision)) in product(
        enumerate(models.items()), enumerate(recipes)
    ):
        quick = i == j or name == "pre"
        marks = () if quick else (pytest.mark.slow,)
        yield pytest.param(
            model, *recipe, precision, marks=marks, id=f"{name}-{recipe[0]}-{precision}"
        )


@pytest.mark.parametrize(("model", "optimizer", "accumulate", "precision"), cases())
def test_memory_is_that_of_a_real_step(model, optimizer, accumulate, precision, one_thread):
    optim = OptimConfig(optimizer=optimizer)
    config = PretrainConfig(
        model=model, optim=optim, batch_size=6, accumulate=accumulate, max_steps=1
    )
    planned = plan.memory(config, precision, 6)
    state, peak = real_steps(config, precision)
    assert planned.weights + planned.moments == state
    assert planned.total == pytest.approx(peak, rel=0.06)


@here
def test_gradients_of_several_ranks_lend_no_memory():
    precision = "bf16-mixed" if in_bfloat16 else "32-true"
    wide = PRE.but(n_embd=256)
    one = PretrainConfig(model=wide, batch_size=2, max_steps=1, accelerator="cpu")
    alone, shared = (plan.memory(one.but(devices=n), precision, 2) for n in (1, 2))
    lent, _ = plan.lent_bytes(one, precision, 2)
    assert shared.activations - alone.activations == lent > 0


def real_steps(config: PretrainConfig, precision: str) -> tuple[int, int]:
    """Bytes of weights and optimizer state, and the most that is held in the second step."""
    state = 0
    tokens = torch.randint(0, config.model.vocab_size, (config.batch_size, config.window + 1))

    def train() -> None:
        nonlocal state
        model = checkpoint.build(config.model).train()
        optimizers = build_optimizers(model, config.optim)
        for _ in range(2):  # the first one makes the optimizer's state
            for _ in range(config.accumulate):
                with (
                    in_place_gradients(True),
                    torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
                ):
                    model.lm_loss(tokens[:, :-1], tokens[:, 1:]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        held = [*model.parameters(), *optimizer_tensors(model, optimizers).values()]
        state = sum(t.nbytes for t in held if t.ndim)  # without Adam's step counters

    ops.release()
    peak = plan.peak_bytes(train)
    return state, peak
