"""The oneDNN way beside PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from modules.kernels import linear as module
from modules.kernels.linear import Linear, gelu, linear


@pytest.mark.parametrize("shape", [(40, 16), (3, 30, 24), (2, 3, 20, 8), (4, 8), (64, 1)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_those_of_float64(shape, has_bias, monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", torch.backends.mkldnn.is_available())
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(12, shape[-1])
    bias = torch.randn(12) if has_bias else None
    inputs = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    out = linear(*inputs)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad((out * direction).sum(), inputs)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.linear(*doubles)
    exact = torch.autograd.grad((expected * direction).sum(), doubles)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(gradients, exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


def test_many_rows_on_amd_go_through_onednn_and_nothing_else_does(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "ONEDNN", torch.backends.mkldnn.is_available())
    real = module._product
    monkeypatch.setattr(module, "_product", lambda *a: seen.append(a[0].shape) or real(*a))
    layer = Linear(8, 4)
    with torch.no_grad():
        layer(torch.randn(64, 8))
        layer(torch.randn(2, 8))
        layer.double()(torch.randn(64, 8, dtype=torch.float64))
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(64, 8)).dtype == torch.bfloat16
    assert seen == ([(64, 8)] if torch.backends.mkldnn.is_available() else [])


@pytest.mark.parametrize("rows", [64, 2])
@pytest.mark.parametrize("training", [True, False])
def test_gelu_in_one_pass_is_that_of_float64(rows, training, monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", torch.backends.mkldnn.is_available())
    layer, x = Linear(8, 12), 3 * torch.randn(rows, 8)
    with torch.set_grad_enabled(training):
        out = gelu(x, layer)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(
        out.double(), F.gelu(exact, approximate="tanh"), rtol=1e-5, atol=1e-5
    )
