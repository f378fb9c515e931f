"""The kernels beside float64 in plain PyTorch, on sides that are no multiple of anything."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from modules.kernels import build, gradients, ops, products
from modules.model.config import GPTConfig
from modules.model.gpt import GPT
from modules.training.optim import newton_schulz, orthogonal

# what should be here and does not compile fails, it is not skipped
here = pytest.mark.skipif(bool(build.missing()), reason=f"kernels: {build.missing()}")
in_bfloat16 = build.element() == torch.bfloat16
LOSS, GRADIENT = (2e-3, 0.03) if in_bfloat16 else (1e-6, 1e-5)  # relative errors


def precision() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16)


def model_of(vocab: int, positions: int, width: int, heads: int) -> GPT:
    torch.manual_seed(0)
    sizes = {"n_positions": positions, "n_embd": width, "n_head": heads, "n_layer": 2}
    model = GPT(GPTConfig(vocab_size=vocab, init_std=0.1, **sizes))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".ln_" in name or name.endswith("bias"):
                p.add_(0.1 * torch.randn_like(p))
    return model


def tokens_of(model: GPT, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (batch, model.config.n_positions + 1)
    windows = torch.randint(0, model.config.vocab_size, shape)
    return windows[:, :-1], windows[:, 1:].clone()


def exact(model: GPT, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[float, torch.Tensor]:
    twin = GPT(model.config).double()
    twin.load_state_dict(model.state_dict())
    logits = F.linear(twin(tokens), twin.wte.weight)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    return loss.item(), flat(twin)


def flat(model: GPT) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


def fast(model: GPT, *pairs: tuple[torch.Tensor, torch.Tensor], in_place: bool = False) -> float:
    model.zero_grad()
    total = 0.0
    for tokens, targets in pairs:
        with gradients.in_place_gradients(in_place), precision():
            loss = model.lm_loss(tokens, targets, share=1 / len(pairs))
            assert loss.grad_fn.name() == "_LossBackward"
        with gradients.in_place_gradients(in_place):
            loss.backward()
        total += loss.item()
    return total


SIZES = [(100, 64, 64, 1), (333, 70, 128, 2), (101, 33, 96, 3), (1000, 130, 48, 3)]
SIZES += [(65, 5, 32, 2), (777, 64, 160, 10), (8192, 200, 256, 2), (300, 65, 34, 1), (99, 9, 30, 2)]


@here
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_loss_and_gradients_are_those_of_float64_up_to_rounding(sizes):
    model = model_of(*sizes)
    tokens, targets = tokens_of(model, 3)
    loss, gradient = exact(model, tokens, targets)
    assert fast(model, (tokens, targets)) == pytest.approx(loss, rel=LOSS)
    assert (flat(model) - gradient).norm() / gradient.norm() < GRADIENT
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all(), name


@here
def test_it_is_as_near_to_float64_as_pytorch_is(monkeypatch):
    model = model_of(500, 96, 128, 2)
    tokens, targets = tokens_of(model, 2)
    _, gradient = exact(model, tokens, targets)
    fast(model, (tokens, targets))
    ours = (flat(model) - gradient).norm()
    monkeypatch.setattr(ops, "usable", lambda x: False)
    model.zero_grad()
    with precision():
        model.lm_loss(tokens, targets).backward()
    assert ours < 1.3 * (flat(model) - gradient).norm()


@here
def test_positions_without_a_target_count_nothing():
    model = model_of(200, 40, 64, 1)
    tokens, targets = tokens_of(model, 2)
    targets[0, 7:] = -100
    logits = F.linear(model(tokens), model.wte.weight)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert fast(model, (tokens, targets)) == pytest.approx(expected.item(), rel=2 * LOSS)


@here
def test_gradients_in_place_are_the_same_sums():
    model = model_of(333, 50, 64, 2)
    micro = [tokens_of(model, 2) for _ in range(3)]
    loss = fast(model, *micro)
    handed_over = flat(model)
    for _ in range(2):  # the second time in memory that is used again
        assert fast(model, *micro, in_place=True) == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(flat(model), handed_over, rtol=1e-4, atol=1e-7)


@here
def test_the_same_bits_every_time():
    model = model_of(3000, 100, 96, 3)
    pair = tokens_of(model, 4)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            fast(model, pair)
            first = flat(model)
            for _ in range(3):
                fast(model, pair)
                assert torch.equal(flat(model), first)
    finally:
        torch.set_num_threads(threads)


@here
def test_no_target_reaches_back_and_no_key_ahead():
    model = model_of(100, 80, 64, 2).eval()
    tokens, _ = tokens_of(model, 1)
    changed = tokens.clone()
    changed[0, 50] = (changed[0, 50] + 1) % 100
    with torch.no_grad(), precision():
        a, b = model(tokens), model(changed)
    assert torch.equal(a[0, :50], b[0, :50]) and not torch.equal(a[0, 50:], b[0, 50:])


@here
@pytest.mark.parametrize("wrong", [100, -1])
def test_a_target_outside_the_vocabulary_is_refused(wrong):
    model = model_of(100, 20, 64, 2)
    tokens, targets = tokens_of(model, 2)
    targets[1, 3] = wrong
    with pytest.raises(IndexError, match="of 100"):
        fast(model, (tokens, targets))


@here
def test_what_is_not_finite_shows_in_the_loss():
    model = model_of(100, 20, 64, 2)
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[3, 4] = float("nan")
    assert not torch.tensor(fast(model, tokens_of(model, 2))).isfinite()


@here
@pytest.mark.parametrize("part", ["attn.c_attn", "mlp.c_fc"])
def test_large_sums_do_not_overflow(part):
    model = model_of(100, 70, 64, 2)
    with torch.no_grad():
        model.get_parameter(f"h.0.{part}.weight").mul_(300)
    tokens, targets = tokens_of(model, 2)
    assert torch.tensor(fast(model, (tokens, targets))).isfinite()
    assert flat(model).isfinite().all()


@here
@pytest.mark.parametrize("width", [34, 64, 130, 800])
def test_a_row_has_the_same_numbers_whatever_is_beside_it(width):
    torch.manual_seed(0)
    x, weight = torch.randn(77, width).to(build.element()), torch.randn(36, width)
    together = products.product(x, weight)
    assert torch.allclose(together.double(), x.double() @ weight.double().mT, rtol=0.02, atol=0.5)
    for rows in (slice(0, 1), slice(5, 21), slice(30, 77)):
        assert torch.equal(products.product(x[rows].clone(), weight), together[rows])


@here
@pytest.mark.parametrize("threads", [1, 3, 7])
def test_any_number_of_threads_gives_the_same_products(threads):
    torch.manual_seed(0)
    x, weight = torch.randn(600, 96).to(build.element()), torch.randn(515, 96)
    one, before = products.product(x, weight), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert all(torch.equal(products.product(x, weight), one) for _ in range(5))
    finally:
        torch.set_num_threads(before)


@here
def test_a_system_that_does_not_allow_tiles_costs_speed_only(monkeypatch, caplog):
    class Refused:
        @staticmethod
        def element_bytes() -> int:
            return 0

    monkeypatch.setattr(build.ctypes, "CDLL", lambda path: Refused)
    build.library.cache_clear()
    try:
        assert build.library() is None and "does not let" in caplog.text
    finally:
        build.library.cache_clear()


@here
@pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="the processor has no AMX")
def test_linux_refuses_tiles_where_a_signal_stack_is_too_small_for_them():
    code = (
        "import ctypes\n"
        "class Stack(ctypes.Structure):\n"
        "    _fields_ = [('p', ctypes.c_void_p), ('f', ctypes.c_int), ('n', ctypes.c_size_t)]\n"
        "room = ctypes.create_string_buffer(4096)\n"
        "own = Stack(ctypes.addressof(room), 0, 4096)\n"
        "assert ctypes.CDLL(None).sigaltstack(ctypes.byref(own), None) == 0\n"
        "from modules.kernels import build\n"
        "print(build.library(), build.status())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None not usable") and "does not let" in done.stderr


def test_without_a_compiler_the_twin_does_the_work():
    code = (
        "import torch, logging; logging.basicConfig(level='INFO')\n"
        "from modules.kernels import build, ops\n"
        "with torch.autocast('cpu', torch.bfloat16): assert not ops.usable(torch.ones(2, 4))\n"
        "print(build.status())"
    )
    for variables in ({"TEXTMILL_NO_KERNELS": "1"}, {"CXX": "no-such-compiler"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": "/usr/bin:/bin", **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        assert any(word in done.stdout for word in ("switched off", "no C++ compiler", "processor"))


@here
def test_a_compiler_that_fails_costs_speed_only(tmp_path, monkeypatch, caplog):
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.library.cache_clear()
    try:
        assert build.library() is None and "no such flag" in caplog.text
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        build.library.cache_clear()


@here
def test_a_cache_that_others_may_write_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "textmill").mkdir()
    (tmp_path / "textmill").chmod(0o777)
    assert build._folder().parent != tmp_path


@here
@pytest.mark.parametrize("shape", [(100, 64), (64, 100), (34, 34), (192, 64), (2, 130)], ids=str)
def test_newton_schulz_is_that_of_float64_up_to_rounding(shape):
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for _ in range(3)]
    assert products.multiplies(matrices, build.element())
    for matrix, got in zip(matrices, orthogonal(matrices, build.element()), strict=True):
        (exact,) = newton_schulz(matrix[None].double())
        assert (got - exact).norm() / exact.norm() < GRADIENT
