"""The LSTM baseline: a plain numpy LSTM gives the same features, in pieces and padded too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.model.lstm import LSTM, LSTMConfig

torch.set_num_threads(1)

SMALL = LSTMConfig(vocab_size=41, n_positions=16, n_embd=6, n_units=10)


def random_model(tied: bool) -> LSTM:
    torch.manual_seed(0)
    model = LSTM(SMALL.but(tied=tied)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def random_tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 41, (batch, length), generator=torch.Generator().manual_seed(1))


def numpy_lstm(model: LSTM, tokens: np.ndarray) -> np.ndarray:
    """Hochreiter and Schmidhuber's cell with forget gates, one step at a time."""
    p = {name: t.numpy() for name, t in model.state_dict().items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h = c = np.zeros(10)
    out = []
    for x in p["wte.weight"][tokens]:
        gates = p["lstm.weight_ih_l0"] @ x + p["lstm.weight_hh_l0"] @ h
        i, f, g, o = np.split(gates + p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    features = np.array(out)
    if model.config.tied:
        features = features @ p["c_proj.weight"].T + p["c_proj.bias"]
    return features


@pytest.mark.parametrize("tied", [True, False])
def test_features_equal_a_plain_numpy_lstm(tied):
    model, tokens = random_model(tied), random_tokens(3, 12)
    with torch.no_grad():
        got = model(tokens)
        logits = model.logits(got)
    matrix = model.state_dict()["wte.weight" if tied else "lm_head.weight"].numpy()
    for row in range(3):
        expected = numpy_lstm(model, tokens[row].numpy())
        np.testing.assert_allclose(got[row].numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(logits[row].numpy(), expected @ matrix.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_gradient_equals_plain_cross_entropy(tied):
    model, tokens = random_model(tied), random_tokens(3, 12)
    x, y = tokens[:, :-1], tokens[:, 1:]
    F.cross_entropy(model.logits(model(x)).flatten(0, 1), y.flatten()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.lm_loss(x, y).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_state_carries_over_padded_rows_too(tied):
    model, tokens = random_model(tied), random_tokens(3, 12)
    expected = model(tokens)
    lengths = [5, 9, 2]
    cache = model.new_cache(3, 12)
    first = model(tokens[:, :9], cache, lengths)
    new = torch.stack([tokens[row, n : n + 2] for row, n in enumerate(lengths)])
    got = model(new, cache)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(first[row, :n], expected[row, :n])
        torch.testing.assert_close(got[row], expected[row, n : n + 2])
    assert cache.take([2, 0]).lengths == [4, 7]
    last = model(tokens[[2, 0], [4, 7]][:, None], cache.take([2, 0]))
    torch.testing.assert_close(last[:, 0], expected[[2, 0], [4, 7]])


def test_the_papers_size():
    config = LSTMConfig()
    with torch.device("meta"):
        model = LSTM(config)
    assert model.lstm.hidden_size == 2048 and model.lstm.num_layers == 1  # GPT-1 paper, section 5
    assert sum(p.numel() for p in model.parameters()) == config.n_params
    assert config.n_params_body < 85_054_464  # far fewer than the Transformer's (gpt1.md 7)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_can_be_read_and_predicted(tied):
    model = random_model(tied)
    model.resize(3)
    assert (
        model.config.vocab_size == 44 and model.logits(model(random_tokens(1, 3))).shape[-1] == 44
    )
    model.lm_loss(torch.tensor([[41, 1, 42]]), torch.tensor([[1, 42, 43]])).backward()
    assert (model.output_matrix.grad[41:] != 0).any(1).all()


def test_training_under_bf16_autocast_is_close_to_float32():
    model, tokens = random_model(True).float(), random_tokens(3, 12)
    expected = model.lm_loss(tokens[:, :-1], tokens[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.lm_loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(tokens, model.new_cache(3, 12), [3, 12, 1])


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="17 tokens a row; the model has 16 positions"):
        random_model(True)(random_tokens(1, 17))
