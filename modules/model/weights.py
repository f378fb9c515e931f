"""Public weights to our checkpoints and back: Hugging Face's `gpt2` and `openai-gpt`.

All of them store projections input x output ("Conv1D"): four kinds of matrices are transposed, and
nothing else (gpt2.md section 3, gpt1.md section 10). What is in a file decides, not its name:
anything that is not a whole safetensors file of exactly the expected tensors is refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from modules.files import write_bytes, write_json
from modules.model import checkpoint
from modules.model.base import skeleton
from modules.model.gpt import GPT, LN_EPS, GPTConfig
from modules.tokenizer import END_OF_TEXT

TRANSPOSED = re.compile(r"^h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
BUFFER = re.compile(r"^h\.\d+\.attn\.(bias|masked_bias)$")  # causal masks in older files
PREFIX = "transformer."  # on the names of a saved LM-head module
RENAMED = {"wte.weight": "tokens_embed.weight", "wpe.weight": "positions_embed.weight"}  # GPT-1
NORMS = {"gpt2": "pre", "openai-gpt": "post"}  # model_type -> our norm
FIXED: dict[str, tuple[Any, ...]] = {  # what a public config may say, where it says it
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "afn": ("gelu", "gelu_new"),  # for openai-gpt both are the tanh form
    "layer_norm_epsilon": (LN_EPS,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
DROPOUTS = {"embd_dropout": "embd_pdrop", "attn_dropout": "attn_pdrop"}
DROPOUTS["resid_dropout"] = "resid_pdrop"
TOKENIZER = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}


def import_hf(folder: Path, out: Path) -> dict[str, int]:
    """Turn a folder with config.json and safetensors into our checkpoint; return its counts.

    The two vocabulary files come along where the folder has them and they are byte-level (GPT-2's).

    Raises:
        FileNotFoundError: config.json or the weights are not there.
        ValueError: not a model of the two papers, or a tensor is missing, unexpected or wrong.
    """
    model = read_hf(folder)
    checkpoint.save(model, out)
    if model.config.norm == "pre":
        copy_vocabulary(
            folder, out / "tokenizer", {theirs: ours for ours, theirs in TOKENIZER.items()}
        )
    return counts(model)


def read_hf(folder: Path) -> GPT:
    """Return the model in a folder with config.json and safetensors, in evaluation mode."""
    path = folder / "config.json"
    config = read_hf_config(checkpoint.read_json_object(path), path)
    with skeleton():
        model = GPT(config)
    found = _list_tensors(folder)
    duplicate = found.pop("lm_head.weight", None)
    names = {name: _public_name(name, config) for name in model.state_dict()}
    shapes = {names[n]: public_shape(n, t) for n, t in model.state_dict().items()}
    header = {name: (shape, dtype) for name, (_, _, shape, dtype) in found.items()}
    checkpoint.check_tensors(folder, header, shapes)
    tensors = {ours: _read(found[theirs]) for ours, theirs in names.items()}
    if duplicate is not None and not torch.equal(_read(duplicate), tensors["wte.weight"]):
        raise ValueError(f"{folder}: lm_head.weight is not the token embedding; ours is tied to it")
    return filled(model, tensors)


def read_hf_config(values: dict[str, Any], path: Path) -> GPTConfig:
    """Return our config of a public config.json.

    Raises:
        ValueError: a field is missing or asks for what neither paper's decoder does.
    """
    kind = values.get("model_type")
    if kind not in NORMS:
        raise ValueError(f"{path}: model_type {kind!r}: expected one of {sorted(NORMS)}")
    if missing := [name for name in SIZES if not isinstance(values.get(name), int)]:
        raise ValueError(f"{path}: {', '.join(missing)}: missing or not a whole number")
    for name, allowed in FIXED.items():
        if name in values and values[name] not in allowed:
            raise ValueError(f"{path}: {name} is {values[name]!r}, expected {allowed[0]!r}")
    if values.get("n_inner") not in (None, 4 * values["n_embd"]):
        raise ValueError(f"{path}: n_inner is {values['n_inner']}, expected {4 * values['n_embd']}")
    sizes = {name: values[name] for name in SIZES}
    dropouts = {ours: values.get(theirs, 0.1) for ours, theirs in DROPOUTS.items()}
    try:
        return GPTConfig.model_validate({**sizes, **dropouts, "norm": NORMS[str(kind)]})
    except ValidationError as error:
        raise ValueError(f"{path}: {checkpoint.first_error(error)}") from None


def export_hf(checkpoint_dir: Path, out: Path) -> dict[str, int]:
    """Write a GPT checkpoint as transformers reads it: `gpt2` if pre-norm, `openai-gpt` if post.

    The tokenizer comes along where the checkpoint has one.

    Raises:
        FileNotFoundError, ValueError: not one of our GPT checkpoints (see checkpoint.load).
    """
    model = checkpoint.load(checkpoint_dir)
    if not isinstance(model, GPT):
        raise ValueError(f"{checkpoint_dir}: an LSTM has no public layout; only GPTs are exported")
    tensors = {
        PREFIX + _public_name(name, model.config): t.t() if TRANSPOSED.match(name) else t
        for name, t in model.state_dict().items()
    }
    checkpoint.write_tensors(out / checkpoint.WEIGHTS, tensors)
    tokenizer = checkpoint_dir / "tokenizer"
    write_json(out / "config.json", _public_config(model.config, _eot(tokenizer, model.config)))
    has_vocabulary = copy_vocabulary(tokenizer, out, TOKENIZER)
    if has_vocabulary:
        _write_tokenizer(out, model.config)
    if has_vocabulary or model.config.norm == "pre":
        eot = _eot(tokenizer, model.config)
        write_json(out / "generation_config.json", {"bos_token_id": eot, "eos_token_id": eot})
    return counts(model)


def _write_tokenizer(out: Path, config: GPTConfig) -> None:
    """Write tokenizer.json and tokenizer_config.json of the two vocabulary files there."""
    symbols = json.loads((out / "vocab.json").read_text())
    lines = (out / "merges.txt").read_text().split("\n")[1:]
    merges = [(first, second) for first, _, second in (x.partition(" ") for x in lines if x)]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(symbols, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if END_OF_TEXT in symbols:
        made.add_special_tokens([END_OF_TEXT])
    write_bytes(out / "tokenizer.json", made.to_str(pretty=True).encode())
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    facts = {"add_prefix_space": False, "model_max_length": config.n_positions, **special}
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **facts})


Found = tuple[Path, str, tuple[int, ...], str]  # file, name in it, shape, type


def _list_tensors(folder: Path) -> dict[str, Found]:
    """Return where each tensor is, by its name without prefix; mask buffers are left out."""
    found: dict[str, Found] = {}
    for path in _weight_files(folder):
        for raw, (shape, dtype) in checkpoint.read_header(path).items():
            name = raw.removeprefix(PREFIX)
            if BUFFER.match(name):
                continue
            if name in found:
                raise ValueError(f"{path}: {raw} is also in {found[name][0]} as {found[name][1]}")
            found[name] = (path, raw, shape, dtype)
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return model.safetensors, or the pieces that its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / checkpoint.WEIGHTS).exists() or not index.exists():
        if not (folder / checkpoint.WEIGHTS).exists():
            raise FileNotFoundError(
                f"{folder / checkpoint.WEIGHTS} is not there; pickled weights "
                "(pytorch_model.bin) are never loaded: convert them to safetensors first"
            )
        return [folder / checkpoint.WEIGHTS]
    pieces = checkpoint.read_json_object(index).get("weight_map")
    if not isinstance(pieces, dict) or not all(isinstance(p, str) for p in pieces.values()):
        raise ValueError(f"{index}: no weight_map from tensor to file")
    if outside := sorted(p for p in pieces.values() if Path(p).name != p):
        raise ValueError(f"{index}: {outside[0]!r} is not a file name")
    return [folder / piece for piece in sorted(set(pieces.values()))]


def _read(found: Found) -> Tensor:
    """Return a tensor as float32; refuse one with values that are not finite."""
    path, raw, _, _ = found
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(raw).to(torch.float32)
    if not tensor.isfinite().all():
        raise ValueError(f"{path}: {raw} has values that are not finite: the file is damaged")
    return tensor


def filled(model: GPT, tensors: dict[str, Tensor]) -> GPT:
    """Return the meta model with these tensors, projections turned to output x input."""
    ours = {
        name: t.t().contiguous() if TRANSPOSED.match(name) else t for name, t in tensors.items()
    }
    model.load_state_dict(ours, assign=True)
    return model.eval()


def _public_name(name: str, config: GPTConfig) -> str:
    return RENAMED.get(name, name) if config.norm == "post" else name


def public_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Return the shape that a tensor of ours has in public files."""
    shape = tuple(tensor.shape)
    return shape[::-1] if TRANSPOSED.match(name) else shape


def _public_config(config: GPTConfig, eot: int) -> dict[str, Any]:
    """Return the config.json that transformers expects (gpt1.md section 10, gpt2.md section 3)."""
    common = {name: getattr(config, name) for name in SIZES}
    common |= {theirs: getattr(config, ours) for ours, theirs in DROPOUTS.items()}
    common |= {"layer_norm_epsilon": LN_EPS, "initializer_range": config.init_std}
    common |= {"tie_word_embeddings": True, "torch_dtype": "float32"}
    if config.norm == "post":
        return {
            **common,
            "model_type": "openai-gpt",
            "architectures": ["OpenAIGPTLMHeadModel"],
            "afn": "gelu",
        }
    return {
        **common,
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "bos_token_id": eot,
        "eos_token_id": eot,
    }


def _eot(tokenizer: Path, config: GPTConfig) -> int:
    """Return the end-of-text id: the tokenizer's, or the last one."""
    path = tokenizer / "encoder.json"
    ids = json.loads(path.read_text()) if path.exists() else {}
    return int(ids.get(END_OF_TEXT, config.vocab_size - 1))


def copy_vocabulary(source: Path, out: Path, names: dict[str, str]) -> bool:
    """Copy the vocabulary files under their other names, if all are there."""
    if not all((source / name).is_file() for name in names):
        return False
    for name, other in names.items():
        write_bytes(out / other, (source / name).read_bytes())
    return True


def counts(model: GPT) -> dict[str, int]:
    """Return how many tensors and parameters a model has."""
    return {"tensors": len(model.state_dict()), "parameters": model.config.n_params}
