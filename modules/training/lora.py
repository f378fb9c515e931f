"""LoRA: low-rank adapters beside frozen matrices (Hu et al. 2021), through peft.

The adapters live only while training: what is written has them added to the matrices.
"""

from torch import nn

from modules.model.base import Decoder
from modules.model.gpt import GPT
from modules.training.tuning_config import LoraConfig


def adapt(decoder: Decoder, config: LoraConfig) -> None:
    """Freeze a decoder and put adapters beside the maps named in the config (global generator).

    Raises:
        ValueError: peft is not installed, or the decoder is no GPT.
    """
    try:
        import peft
    except ImportError:
        raise ValueError("lora needs peft: pip install 'textmill[lora]'") from None
    if not isinstance(decoder, GPT):
        raise ValueError("lora adapts the maps of a GPT; this checkpoint is of another kind")
    decoder.requires_grad_(False)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
    )
    peft.inject_adapter_in_model(settings, decoder.h)


def merge(decoder: nn.Module) -> None:
    """Add the adapters to the matrices beside them and take them away; nothing without any."""
    if not any(name.endswith("lora_A") for name, _ in decoder.named_modules()):
        return
    from peft.tuners.lora import LoraLayer

    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
