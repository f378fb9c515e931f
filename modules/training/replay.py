"""The same step computed twice must give the same bits; a difference is told by its place.

Wrong arithmetic of single processors goes unnoticed otherwise ("silent data corruption": Hochschild
et al. 2021, "Cores that don't count"), and a kernel that adds in another order each time ends exact
resuming.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients that are there (this rank's part of sharded ones) by name."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {  # copies: DDP's buckets, which gradients are views of, are written again
        name: (grad.to_local() if isinstance(grad, DTensor) else grad).clone()
        for name, grad in grads.items()
    }


class ReplayMismatch(RuntimeError):
    """A step computed twice gave two results; the message says where they first differ."""


def compare(
    step: int, first: tuple[float, Mapping[str, Tensor]], again: tuple[float, Mapping[str, Tensor]]
) -> None:
    """Compare loss and gradients of two computations of a step, bit for bit (NaN equals itself).

    Raises:
        ReplayMismatch: naming the step, the parameter, the first differing index and both values.
    """
    if first[1].keys() != again[1].keys():
        odd = sorted(first[1].keys() ^ again[1].keys())
        raise mismatch(step, f"gradient of {odd[0]}: it is there only once")
    for name, gradient in first[1].items():
        if (index := first_difference(gradient, again[1][name])) is not None:
            values = f"{float(gradient[index])!r}, then {float(again[1][name][index])!r}"
            raise mismatch(step, f"gradient of {name} at index {list(index)}: {values}")
    losses = [torch.tensor(loss, dtype=torch.float64) for loss, _ in (first, again)]
    if first_difference(*losses) is not None:
        raise mismatch(step, f"loss: {first[0]!r}, then {again[0]!r}")


def first_difference(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """Return the index of the first element whose bits differ, or None."""
    flat = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    if torch.equal(*flat):
        return None
    place = int((flat[0] != flat[1]).nonzero()[0]) // a.element_size()
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(place), a.shape))


def mismatch(step: int, what: str) -> ReplayMismatch:
    """Return the error that says what two results of one step mean."""
    return ReplayMismatch(
        f"step {step} computed twice gives other bits: {what}. Either memory or processor is "
        "silently wrong (test them, or train elsewhere), or a kernel is not deterministic (then "
        "set replay_every to 0: resuming is exact only to rounding). The step was not applied"
    )
