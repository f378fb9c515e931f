"""A step computed twice: equal bits pass, one differing bit is named."""

import pytest
import torch

from modules.training.replay import ReplayMismatch, compare, first_difference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_bit_is_found_at_its_place(dtype):
    a = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    a[0, 0, 0] = float("nan")  # equals itself here
    for index in [(0, 0, 1), (1, 2, 3), (2, 3, 4)]:
        b = a.clone()
        assert first_difference(a, b) is None
        bits = b.view(torch.uint8)  # (3, 4, 5 * bytes)
        bits[index[0], index[1], index[2] * b.element_size()] ^= 1
        strided = a.mT.contiguous().mT
        assert first_difference(a, b) == first_difference(strided, b) == index
    assert first_difference(torch.tensor(0.0), torch.tensor(-0.0)) == ()
    assert first_difference(torch.empty(0), torch.empty(0)) is None


def test_the_message_names_step_parameter_and_index():
    good, bad = {"w": torch.zeros(2, 3), "b": torch.ones(2)}, {"w": torch.zeros(2, 3)}
    compare(7, (1.0, good), (1.0, dict(good)))
    with pytest.raises(ReplayMismatch, match=r"step 7 .* b: it is there only once"):
        compare(7, (1.0, good), (1.0, bad))
    other = {"w": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.5])}
    with pytest.raises(ReplayMismatch, match=r"gradient of b at index \[1\]: 1\.0, then 1\.5"):
        compare(7, (1.0, good), (1.0, other))
    with pytest.raises(ReplayMismatch, match=r"loss: 1\.0, then 2\.0\. Either memory or processor"):
        compare(7, (1.0, good), (2.0, good))
