"""Fine-tuning heads against the release's rules (gpt1.md sections 4.2 to 4.6 and 11)."""

import math

import pytest
import torch
import torch.nn.functional as F

from modules.model.gpt import GPT, GPTConfig
from modules.model.heads import HeadConfig, TaskModel, expected_score, spread_scores
from modules.model.lstm import LSTM, LSTMConfig

torch.set_num_threads(1)

START, DELIMITER, EXTRACT = 40, 41, 42


def task_model(form: str, n_classes: int = 3, **fields) -> TaskModel:
    torch.manual_seed(0)
    decoder = GPT(
        GPTConfig(vocab_size=43, n_positions=16, n_embd=12, n_layer=2, n_head=2, norm="post")
    )
    model = TaskModel(decoder, HeadConfig(format=form, n_classes=n_classes, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def batch(lengths: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, K, T) as S text D text E, then padding, and the extract positions (B, K)."""
    generator = torch.Generator().manual_seed(1)
    width = max(map(max, lengths))
    tokens = torch.full((len(lengths), len(lengths[0]), width), pad)
    for b, row in enumerate(lengths):
        for k, n in enumerate(row):
            tokens[b, k, :n] = torch.randint(1, 40, (n,), generator=generator)
            tokens[b, k, 0], tokens[b, k, n // 2], tokens[b, k, n - 1] = START, DELIMITER, EXTRACT
    return tokens, torch.tensor(lengths) - 1


def test_the_head_reads_the_extract_token_and_padding_does_not_matter():
    model = task_model("entailment")
    tokens, extract = batch([[5], [9], [12]])
    logits = model(tokens, extract)
    for row, end in enumerate(extract[:, 0].tolist()):
        assert tokens[row, 0, end] == EXTRACT
        state = model.decoder(tokens[row, :, : end + 1])[0, -1]  # the sequence alone, unpadded
        expected = model.head.weight @ state + model.head.bias
        torch.testing.assert_close(logits[row], expected)
    labels = torch.tensor([0, 1, 2])
    other, _ = batch([[5], [9], [12]], pad=7)
    for a, b in zip(
        model.losses(tokens, extract, labels), model.losses(other, extract, labels), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_similarity_adds_the_states_of_both_orders():
    model = task_model("similarity", 2)
    tokens, extract = batch([[6, 8], [10, 7]])
    hidden = [[model.decoder(tokens[b, k : k + 1])[0] for k in (0, 1)] for b in (0, 1)]
    a, b = (torch.stack([hidden[i][k][extract[i, k]] for i in (0, 1)]) for k in (0, 1))
    assert model.head.in_features == 12  # not 24: added, not concatenated
    expected = model.head(a + b)
    torch.testing.assert_close(model(tokens, extract), expected)
    torch.testing.assert_close(model(tokens.flip(1), extract.flip(1)), expected)  # order is no clue


def test_similarity_can_put_the_states_side_by_side():
    model = task_model("similarity", 2, pair="concat")
    assert model.head.in_features == 24
    tokens, extract = batch([[6, 8]])
    assert not torch.equal(model(tokens, extract), model(tokens.flip(1), extract.flip(1)))


def test_multiple_choice_is_one_logit_per_answer_and_a_softmax_over_answers():
    model = task_model("multiple_choice")
    tokens, extract = batch([[6, 8, 7], [10, 7, 5]])
    logits = model(tokens, extract)
    assert model.head.out_features == 1 and logits.shape == (2, 3)
    alone = torch.stack(
        [model(tokens[:, k : k + 1], extract[:, k : k + 1])[:, 0] for k in range(3)], 1
    )
    torch.testing.assert_close(logits, alone)
    _, task, _, _ = model.losses(tokens, extract, torch.tensor([2, 0]))
    p = alone.softmax(1)
    assert task.item() == pytest.approx(-(p[0, 2].log() + p[1, 0].log()).item() / 2, rel=1e-12)


def test_an_answer_that_is_not_there_is_never_chosen_and_costs_nothing():
    model = task_model("multiple_choice")
    tokens, extract = batch([[6, 8, 7]])
    extract[0, 2] = -1
    labels = torch.tensor([1])
    two = model.losses(tokens[:, :2], extract[:, :2], labels)
    three = model.losses(tokens, extract, labels)
    assert three[3][0, 2] == -math.inf
    for a, b in zip(two[:3], three[:3], strict=True):
        torch.testing.assert_close(a, b)
    three[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_dropout_mask_is_shared_between_the_choices_of_an_example():
    model = task_model("multiple_choice", dropout=0.5).train()
    tokens, extract = batch([[6, 6], [6, 6]])
    tokens[:, 1] = tokens[:, 0]  # equal answers
    tokens[1] = tokens[0]  # equal examples
    logits = model(tokens, extract)
    assert torch.equal(logits[:, 0], logits[:, 1])
    assert logits[0, 0] != logits[1, 0]  # but each example has a mask of its own


def plain_gain(model: TaskModel, sequence: torch.Tensor) -> torch.Tensor:
    """One answer's gain in nats a token, its sequence (T,) read with and without what is before."""
    begin = sequence.tolist().index(DELIMITER)
    alone = torch.cat([sequence[:1], sequence[begin:]])
    means = []
    for ids, start in ((sequence, begin), (alone, 1)):
        logp = model.decoder.logits(model.decoder(ids[None])[0]).log_softmax(1)
        means.append(torch.stack([logp[t - 1, ids[t]] for t in range(start + 1, len(ids) - 1)]))
    return means[0].mean() - means[1].mean()


@pytest.mark.parametrize("lm_weight", [0, 0.5])
@pytest.mark.parametrize("shared", [False, True])
def test_a_gain_in_likelihood_is_added_and_the_loss_goes_through_it(lm_weight, shared):
    model = task_model("multiple_choice", likelihood=True, dropout=0).train()
    tokens, extract = batch([[6, 9, 8], [12, 7, 16]])
    if shared:
        tokens, extract = batch([[14, 14, 14], [15, 15, 15]])
        tokens[0, :, 9], tokens[0, 1:, :9] = DELIMITER, tokens[0, 0, :9]
        tokens[0, :, 7], tokens[0, :, 10] = 5, torch.tensor([5, 6, 7])
    extract[0, 2] = -1  # two answers only
    labels = torch.tensor([1, 2])
    total, task, *_, logits = model.losses(
        tokens, extract, labels, lm_weight=lm_weight, share=0.5, lm_share=0.5
    )
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    rows = []
    for b in range(2):
        row = [torch.tensor(float("-inf")).double()] * 3
        for k in range(3):
            if (end := int(extract[b, k])) > 0:
                sequence = tokens[b, k, : end + 1]
                state = model.decoder(sequence[None])[0, -1]
                row[k] = (
                    model.head(state) + model.head.nats * plain_gain(model, sequence)
                ).squeeze()
        rows.append(torch.stack(row))
    expected = torch.stack(rows)
    loss = F.cross_entropy(expected, labels)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(task, loss)
    torch.testing.assert_close(model(tokens, extract), expected)  # as predictions are made
    loss = 0.5 * loss
    if lm_weight:
        packed = model.pack(tokens, extract)
        loss = loss + model.lm_loss(model.read(packed), packed, share=0.5 * lm_weight)
    loss.backward()
    torch.testing.assert_close(total, loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=lambda text, name=name: name + text)


def test_likelihoods_are_of_answers_only():
    with pytest.raises(ValueError, match="for multiple_choice, not for entailment"):
        HeadConfig(format="entailment", likelihood=True)


def release_lm_loss(model: TaskModel, tokens: torch.Tensor, extract: torch.Tensor) -> float:
    """gpt1.md 4.2, one sequence and one target at a time."""
    means = []
    for sequence, end in zip(tokens.flatten(0, 1), extract.flatten().tolist(), strict=True):
        logits = model.decoder.logits(model.decoder(sequence[None]))[0]
        losses = [F.cross_entropy(logits[t - 1], sequence[t]).item() for t in range(1, end + 1)]
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


@pytest.mark.parametrize(
    ("form", "lengths"),
    [
        ("classification", [[3], [12], [7]]),
        ("similarity", [[4, 9], [12, 5]]),
        ("multiple_choice", [[4, 9, 6], [12, 5, 3]]),  # wrong answers count too
    ],
)
def test_the_lm_loss_is_a_mean_per_sequence_then_over_sequences(form, lengths):
    model = task_model(form)
    tokens, extract = batch(lengths)
    labels = torch.zeros(len(lengths), dtype=torch.int64)
    total, task, lm, _ = model.losses(tokens, extract, labels)
    assert lm.item() == pytest.approx(release_lm_loss(model, tokens, extract), rel=1e-12)
    assert total.item() == pytest.approx(task.item() + 0.5 * lm.item(), rel=1e-12)
    flat = F.cross_entropy(
        model.decoder.logits(model.decoder(tokens.flatten(0, 1))[:, :-1]).flatten(0, 1),
        tokens[:, :, 1:].flatten(),
    )
    assert lm.item() != pytest.approx(flat.item(), rel=1e-4)  # a flat mean is a different loss


def test_delimiter_and_extract_are_targets_and_start_is_not():
    model = task_model("entailment")
    tokens, extract = batch([[8]])
    packed = model.pack(tokens, extract)
    hidden = model.read(packed).detach()  # (8, C)
    model.lm_loss(hidden, packed).backward()
    gradient = model.decoder.wte.weight.grad  # of the output layer alone
    with torch.no_grad():
        p = model.decoder.logits(hidden[:7]).softmax(1)  # (7, V)
        times = torch.zeros(7, 43, dtype=p.dtype)
        times[torch.arange(7), tokens[0, 0, 1:]] = 1  # every token but the first is a target
        torch.testing.assert_close(gradient, (p - times).T @ hidden[:7] / 7)
    assert times[:, [DELIMITER, EXTRACT]].sum() == 2 and times[:, START].sum() == 0


def test_without_lm_weight_the_lm_loss_is_left_out():
    model = task_model("entailment")
    tokens, extract = batch([[8], [5]])
    total, task, lm, _ = model.losses(tokens, extract, torch.tensor([0, 2]), lm_weight=0)
    assert total.item() == task.item() and lm.item() == 0


def test_new_heads_are_drawn_as_the_release_does():
    torch.manual_seed(0)
    decoder = GPT(GPTConfig(vocab_size=43, n_positions=8, n_embd=512, n_layer=1, n_head=2))
    head = TaskModel(decoder, HeadConfig(format="classification", n_classes=10)).head
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (head.bias == 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_on_the_lstm(tied):
    decoder = LSTM(LSTMConfig(vocab_size=43, n_positions=16, n_embd=12, n_units=20, tied=tied))
    model = TaskModel(decoder, HeadConfig(format="similarity", n_classes=2)).train()
    assert model.head.in_features == (12 if tied else 20)
    tokens, extract = batch([[6, 8], [10, 7]])
    model.losses(tokens, extract, torch.tensor([0, 1]))[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_training_the_whole_learns_a_rule():
    """The label is whether the first word is below 20: three epochs of nothing but that."""
    torch.manual_seed(0)
    model = task_model("classification", 2).float().train()
    tokens, _ = batch([[7]] * 64)
    labels = (tokens[:, 0, 1] < 20).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    extract = torch.full((64, 1), 6)
    for _ in range(60):
        optimizer.zero_grad()
        total, _, _, logits = model.losses(tokens, extract, labels)
        total.backward()
        optimizer.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    ("score", "weights"),
    [
        (0.0, [1, 0, 0, 0, 0, 0]),
        (3.4, [0, 0, 0, 0.6, 0.4, 0]),  # gpt1.md 4.6: floor(y) - y + 1 and y - floor(y)
        (4.75, [0, 0, 0, 0, 0.25, 0.75]),
        (5.0, [0, 0, 0, 0, 0, 1]),
    ],
)
def test_similarity_scores_are_spread_over_six_classes(score, weights):
    spread = spread_scores(torch.tensor([score], dtype=torch.float64))
    torch.testing.assert_close(spread[0], torch.tensor(weights, dtype=torch.float64))
    assert expected_score(spread.clamp(min=1e-30).log()).item() == pytest.approx(score)
    model = task_model("similarity", 6)
    tokens, extract = batch([[6, 8]])
    _, task, _, logits = model.losses(tokens, extract, spread)
    want = -(spread[0] * logits[0].log_softmax(0)).sum()
    assert task.item() == pytest.approx(want.item(), rel=1e-6)
