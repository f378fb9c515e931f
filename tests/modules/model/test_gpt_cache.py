"""The cache: reading in pieces, rows of different lengths, a shared prefix, what is too long."""

import pytest
import torch

from tests.modules.model.small_gpt import SMALL, random_model, random_tokens

torch.set_num_threads(1)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 4, 6]])
def test_reading_in_pieces_with_a_cache_is_reading_at_once(norm, pieces):
    model, tokens = random_model(SMALL.but(norm=norm)), random_tokens(3, 16)
    with torch.no_grad():
        expected = model(tokens)
        cache = model.new_cache(3, 16)
        got = torch.cat([model(part, cache) for part in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert cache.lengths == [16] * 3


@torch.no_grad()
def test_rows_of_different_lengths_share_a_cache():
    model, tokens = random_model(), random_tokens(3, 16)
    expected = model(tokens)
    lengths = [5, 9, 2]
    padded = tokens[:, :9].clone()
    for row, n in enumerate(lengths):
        padded[row, n:] = 52  # padding of any kind leaves no trace
    cache = model.new_cache(3, 16)
    first = model(padded, cache, lengths)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(first[row, :n], expected[row, :n], rtol=0, atol=1e-12)
    for count in (1, 3, 1):
        new = torch.stack([tokens[row, n : n + count] for row, n in enumerate(cache.lengths)])
        before = list(cache.lengths)
        got = model(new, cache)
        for row, n in enumerate(before):
            torch.testing.assert_close(got[row], expected[row, n : n + count], rtol=0, atol=1e-12)
    assert cache.lengths == [10, 14, 7]


@torch.no_grad()
def test_a_prefix_is_read_once_and_shared():
    model, prefix, endings = random_model(), random_tokens(1, 6), random_tokens(4, 5, seed=3)
    cache = model.new_cache(1, 16)
    model(prefix, cache)
    got = model(endings, cache.take([0] * 4))
    expected = model(torch.cat([prefix.expand(4, -1), endings], 1))[:, 6:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert cache.lengths == [6]


def test_too_many_tokens_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="25 tokens a row; the model has 24 positions"):
        model(random_tokens(1, 25))
    with pytest.raises(ValueError, match="a cache of 25"):
        model.new_cache(1, 25)
    cache = model.new_cache(1, 4)
    with torch.no_grad(), pytest.raises(ValueError, match="4 positions; 5 are needed"):
        model(random_tokens(1, 5), cache)
