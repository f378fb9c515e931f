"""One run on many processes: DDP or FSDP2, and tensors that do not depend on how many there are.

DDP (Li et al. 2020, "PyTorch Distributed") keeps the whole training state on each rank and adds the
gradients up in buckets while the backward pass goes on. FSDP2 (Zhao et al. 2023, "PyTorch FSDP";
torch.distributed.fsdp.fully_shard) keeps a slice of weights, gradients and moments on each and
gathers a block's weights when it is computed. What leaves a rank is always whole, so any number of
ranks under either strategy goes on from it. Activation checkpointing is Chen et al. 2016.
"""

import os
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from modules.model import checkpoint as files
from modules.model.base import Decoder, skeleton
from modules.model.config import GPTConfig, LSTMConfig
from modules.model.gpt import Block
from modules.training.config import TrainingConfig
from modules.training.lean_lightning import DDPStrategy, ModelParallelStrategy, Strategy


def strategy(config: TrainingConfig) -> Strategy | str:
    """Return Lightning's strategy for a config.

    DDP would put its buckets into another order after the first backward pass, and a sum over three
    or more ranks depends on the place in the bucket: a resumed run would differ in its last bits.
    With `find_unused_parameters` it keeps the order it began with (and heads may go unused).
    """
    if config.ranks == 1:
        return "auto"
    if layout(config).endswith("fsdp"):
        return ModelParallelStrategy(data_parallel_size=config.ranks, tensor_parallel_size=1)
    return DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True)


def is_first() -> bool:
    """Tell whether this process is the one that writes (also before and after the trainer runs)."""
    return os.environ.get("RANK", "0") == "0"


def mean(strategy: Strategy, number: Tensor) -> Tensor:
    """Return the mean of a number over the ranks, float64 (all ranks must ask)."""
    return Tensor(strategy.reduce(number.double(), reduce_op="mean"))


def check_together(strategy: Strategy, step: int) -> None:
    """Refuse to train when the ranks have not found the same checkpoint.

    Raises:
        ValueError: naming this rank's step.
    """
    if float(mean(strategy, torch.tensor(step, device=strategy.root_device))) != step:
        raise ValueError(
            f"this process found the checkpoint of step {step}, another one a different step: "
            "the output directory must be one folder that all machines share"
        )


def layout(config: TrainingConfig) -> str:
    """Return what the last bits of a sum over ranks depend on: "1", "4 ddp", "4 fsdp"."""
    if config.ranks == 1:
        return "1"
    chosen = config.strategy
    if chosen == "auto":
        chosen = "ddp" if _fits(config) else "fsdp"
    return f"{config.ranks} {chosen}"


def _fits(config: TrainingConfig) -> bool:
    """Tell whether the model's training state leaves half of a GPU to activations."""
    model: GPTConfig | LSTMConfig | None = getattr(config, "model", None)  # fine-tuning: ddp
    if model is None or config.device_kind != "cuda":
        return True
    state = 16 * model.n_params  # bytes: weight, gradient, two moments, float32 each
    return state <= torch.cuda.get_device_properties(0).total_memory / 2


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a model's parameters among the ranks of a mesh, block by block.

    What lies outside of the blocks (embeddings, last norm) stays gathered from the forward to the
    backward pass, so that the loss may use the tied output matrix after `forward`.
    """
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Let go of gathered weights (a forward pass without a backward pass leaves some)."""
    if isinstance(model, FSDPModule):
        model.reshard()


def recompute(model: nn.Module) -> None:
    """Keep only each block's input for the backward pass, which computes the block once more.

    Random numbers are drawn again from the same state: the result is the same to the bit.
    """
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def blocks(model: nn.Module) -> Iterator[Block]:
    """Yield the transformer blocks of a model (an LSTM has none)."""
    return (module for module in model.modules() if isinstance(module, Block))


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor (all ranks must ask), any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor where `like` is sharded, else the tensor."""
    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    # None: each rank has the whole already and takes its part of it, nothing is sent
    part = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return part.clone()  # no view that keeps the whole in memory


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whole, sharded ones in the first rank's host memory.

    All ranks must ask; the others get none of the sharded ones. One tensor at a time is whole on a
    device.
    """
    out = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            out[name] = tensor
            continue
        full = whole(tensor).detach()
        if tensor.device_mesh.get_rank() == 0:
            out[name] = full.cpu()
    return out


def whole_model(model: Decoder) -> Decoder:
    """Return the model itself, or of a sharded one a copy in the first rank's host memory.

    All ranks must ask; the others get back the sharded one, which they cannot use alone.
    """
    if not isinstance(model, FSDPModule):
        return model
    reshard(model)
    weights = gathered(dict(model.named_parameters()))
    if torch.distributed.get_rank() != 0:
        return model
    with skeleton():
        copy = files.build(model.config)
    copy.load_state_dict(weights, assign=True)
    return copy.requires_grad_(True).train(model.training)
