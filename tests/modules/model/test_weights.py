"""Logits equal transformers' in both directions; anything but the expected tensors is refused."""

import json
import os
import pickle
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.model import checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.model.releases import import_openai
from modules.model.weights import export_hf, import_hf, read_hf
from modules.tokenizer import TokenizerConfig, load, train

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SIZES = [  # vocab, positions, features, layers, heads: the last has 25 heads, as XL
    {"vocab_size": 97, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4},
    {"vocab_size": 130, "n_positions": 17, "n_embd": 12, "n_layer": 3, "n_head": 1},
    {"vocab_size": 61, "n_positions": 40, "n_embd": 50, "n_layer": 1, "n_head": 25},
]
KINDS = ["gpt2", "openai-gpt"]


def theirs(kind: str, sizes: dict[str, int]):
    """A transformers model with random weights in every tensor, layer norms and biases included."""
    torch.manual_seed(1)
    if kind == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        )
    else:
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tokens(sizes: dict[str, int]) -> torch.Tensor:
    shape = (3, sizes["n_positions"])
    return torch.randint(0, sizes["vocab_size"], shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    return model.logits(model(ids))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_imported_model_gives_transformers_logits(kind, sizes, tmp_path):
    oracle = theirs(kind, sizes)
    oracle.save_pretrained(tmp_path / "hf")
    counts = import_hf(tmp_path / "hf", tmp_path / "ours")
    ours = checkpoint.load(tmp_path / "ours")
    ids = tokens(sizes)
    with torch.no_grad():
        expected = oracle(ids).logits
    torch.testing.assert_close(logits(ours, ids), expected, rtol=0, atol=1e-5)
    assert counts["parameters"] == sum(p.numel() for p in oracle.parameters())
    assert counts["tensors"] == 12 * sizes["n_layer"] + (4 if kind == "gpt2" else 2)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_exported_model_gives_our_logits(norm, sizes, tmp_path):
    torch.manual_seed(3)
    ours = GPT(GPTConfig(**sizes, norm=norm, embd_dropout=0.1, init_std=0.2)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    checkpoint.save(ours, tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "hf")
    oracle, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(oracle).__name__ == ("GPT2" if norm == "pre" else "OpenAIGPT") + "LMHeadModel"
    ids = tokens(sizes)
    with torch.no_grad():
        got = oracle.eval()(ids).logits
    torch.testing.assert_close(got, logits(ours, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_export_of_an_import_is_the_same_file(kind, tmp_path):
    theirs(kind, SIZES[0]).save_pretrained(tmp_path / "hf")
    import_hf(tmp_path / "hf", tmp_path / "a")
    export_hf(tmp_path / "a", tmp_path / "back")
    import_hf(tmp_path / "back", tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    theirs("gpt2", SIZES[0]).save_pretrained(folder)
    return folder


def rewritten(public: Path, out: Path, change) -> Path:
    """A copy of the public folder whose tensors went through `change`."""
    out.mkdir()
    tensors = load_file(public / "model.safetensors")
    save_file(change(tensors), out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_bytes((public / "config.json").read_bytes())
    return out


def test_hub_files_without_prefix_with_buffers_and_a_duplicate_head(public, tmp_path):
    def hub(tensors):
        plain = {n.removeprefix("transformer."): t for n, t in tensors.items()}
        plain["lm_head.weight"] = plain["wte.weight"].clone()
        for i in range(2):
            plain[f"h.{i}.attn.bias"] = torch.ones(1, 1, 24, 24).tril().to(torch.uint8)
            plain[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        return plain

    folder = rewritten(public, tmp_path / "hub", hub)
    for ours, same in zip(
        read_hf(folder).state_dict().values(), read_hf(public).state_dict().values(), strict=True
    ):
        assert torch.equal(ours, same)


def test_half_precision_weights_become_float32(public, tmp_path):
    folder = rewritten(
        public, tmp_path / "half", lambda ts: {n: t.to(torch.bfloat16) for n, t in ts.items()}
    )
    assert {t.dtype for t in read_hf(folder).state_dict().values()} == {torch.float32}


def test_weights_in_pieces(public, tmp_path):
    folder = tmp_path / "pieces"
    folder.mkdir()
    tensors = sorted(load_file(public / "model.safetensors").items())
    halves = {"a.safetensors": tensors[:9], "b.safetensors": tensors[9:]}
    for name, part in halves.items():
        save_file(dict(part), folder / name)
    index = {n: name for name, part in halves.items() for n, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_bytes((public / "config.json").read_bytes())
    assert torch.equal(read_hf(folder).wte.weight, read_hf(public).wte.weight)
    index["transformer.wte.weight"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match="not a file name"):
        read_hf(folder)


def test_a_forgotten_transpose_of_the_square_matrix_is_caught(public, tmp_path):
    """c_proj is square: its transpose fits, so only the logits tell (gpt2.md section 3)."""
    name = "transformer.h.0.attn.c_proj.weight"
    folder = rewritten(public, tmp_path / "t", lambda ts: ts | {name: ts[name].t().contiguous()})
    ids = tokens(SIZES[0])
    right, wrong = logits(read_hf(public), ids), logits(read_hf(folder), ids)
    assert (right - wrong).abs().max() > 1e-2
    stored = load_file(public / "model.safetensors")[name]
    assert torch.equal(read_hf(public).h[0].attn.c_proj.weight, stored.t())


def without(name):
    return lambda ts: {n: t for n, t in ts.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("transformer.h.1.ln_2.bias"), r"missing: h\.1\.ln_2\.bias"),
        (lambda ts: ts | {"score.weight": torch.ones(2)}, r"unexpected: score\.weight"),
        (
            lambda ts: ts | {"transformer.wpe.weight": torch.ones(23, 32)},
            r"wpe\.weight is \[23, 32\], expected \[24, 32\]",
        ),
        (
            lambda ts: ts | {"transformer.ln_f.bias": torch.ones(32, dtype=torch.int64)},
            r"ln_f\.bias is of type I64",
        ),
        (
            lambda ts: ts | {"transformer.ln_f.bias": torch.full((32,), torch.nan)},
            r"ln_f\.bias has values that are not finite",
        ),
        (lambda ts: ts | {"lm_head.weight": torch.ones(97, 32)}, "not the token embedding"),
        (lambda ts: ts | {"ln_f.bias": torch.ones(32)}, "ln_f.bias is also in"),
    ],
)
def test_wrong_tensors_are_refused_by_name(public, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_hf(rewritten(public, tmp_path / "wrong", change))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04garbage", pickle.dumps({"a": Evil()}), b"PK\x03\x04 a zip of pickles"],
)
def test_what_is_not_safetensors_is_refused_and_never_run(public, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_bytes((public / "config.json").read_bytes())
    with pytest.raises(ValueError, match="safetensors"):
        read_hf(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_folder_with_pickled_weights_only_says_what_to_do(public, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (tmp_path / "config.json").write_bytes((public / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="convert them to safetensors"):
        read_hf(tmp_path)


def test_a_cut_off_file_is_refused(public, tmp_path):
    data = (public / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((public / "config.json").read_bytes())
    for keep in (4, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "model.safetensors").write_bytes(data[:keep])
        with pytest.raises(ValueError, match="safetensors file"):
            read_hf(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "gelu"),  # the erf form
        ("layer_norm_epsilon", 1e-6),
        ("n_inner", 77),
        ("n_head", 5),
        ("n_layer", None),
        ("scale_attn_by_inverse_layer_idx", True),
    ],
)
def test_configs_of_other_decoders_are_refused_by_field(public, tmp_path, field, value):
    config = json.loads((public / "config.json").read_text()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: .*{field}"):
        read_hf(tmp_path)


def test_the_tokenizer_travels_with_the_weights(public, tmp_path):
    folder = rewritten(public, tmp_path / "hf", lambda ts: ts)
    (folder / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 7}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    import_hf(folder, tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer/vocab.bpe").read_text() == "#version: 0.2\n"
    export_hf(tmp_path / "ours", tmp_path / "back")
    assert (tmp_path / "back/vocab.json").read_bytes() == (folder / "vocab.json").read_bytes()
    assert json.loads((tmp_path / "back/config.json").read_text())["eos_token_id"] == 7


def write_release(folder: Path, model) -> None:
    """OpenAI's GPT-1 files from a transformers model: one flat row of numbers in ten pieces."""
    state = model.transformer.state_dict()
    arrays = [state["positions_embed.weight"], state["tokens_embed.weight"]]
    for i in range(model.config.n_layer):
        for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
            weight = state[f"h.{i}.{part}.weight"]
            arrays += [weight[None] if weight.dim() == 2 else weight, state[f"h.{i}.{part}.bias"]]
    (folder / "params_shapes.json").write_text(json.dumps([list(a.shape) for a in arrays]))
    flat = np.concatenate([a.numpy().ravel() for a in arrays])
    for i, piece in enumerate(np.array_split(flat, 11)):  # params_10 sorts after params_9
        np.save(folder / f"params_{i}.npy", piece)


def test_openai_release_of_gpt1(tmp_path):
    sizes = {"vocab_size": 70, "n_positions": 9, "n_embd": 128, "n_layer": 2, "n_head": 2}
    oracle = theirs("openai-gpt", sizes)
    write_release(tmp_path, oracle)
    import_openai(tmp_path, tmp_path / "ours")
    ids = tokens(sizes)
    with torch.no_grad():
        expected = oracle(ids).logits
    got = logits(checkpoint.load(tmp_path / "ours"), ids)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    (tmp_path / "params_3.npy").unlink()
    with pytest.raises(ValueError, match="the shapes need"):
        import_openai(tmp_path, tmp_path / "ours")
    np.save(tmp_path / "params_3.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"params_3\.npy: not a plain"):
        import_openai(tmp_path, tmp_path / "ours")


def test_transformers_loads_the_exported_tokenizer_with_equal_ids(tmp_path):
    text = "the cat's hat, the cat sat: naïve 日本語 <|endoftext|>  12,345\n\n"
    train([text, "the hat sat on the cat's mat"], tmp_path / "t", TokenizerConfig(vocab_size=290))
    tokenizer = load(tmp_path / "t")
    model = GPT(GPTConfig(**SIZES[0]).but(vocab_size=tokenizer.n_vocab))
    checkpoint.save(model, tmp_path / "ours")
    tokenizer.save(tmp_path / "ours/tokenizer")
    export_hf(tmp_path / "ours", tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    plain = text.replace("<|endoftext|>", "")
    assert theirs(plain)["input_ids"] == tokenizer.encode(plain)
    assert theirs.decode(tokenizer.encode(plain)) == plain
    assert len(theirs) == tokenizer.n_vocab
    assert theirs.eos_token_id == tokenizer.eot
