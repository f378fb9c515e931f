"""A small decoder with something in every tensor, and tokens for it."""

import torch

from modules.model.gpt import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=53, n_positions=24, n_embd=12, n_layer=2, n_head=3)


def random_model(config: GPTConfig = SMALL, seed: int = 0) -> GPT:
    """A float64 model with something in every tensor."""
    torch.manual_seed(seed)
    model = GPT(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SMALL.vocab_size, (batch, length), generator=generator)
