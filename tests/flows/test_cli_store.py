"""Artifacts from clone to clone and weights in and out, by command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from flows.cli import app
from modules.model import checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.tokenizer import Tokenizer
from registry import artifacts, exchange, projection
from registry.workspace import Workspace

transformers = pytest.importorskip("transformers")

REAL = Path(__file__).parents[1] / "modules/model/gpt2_tensorflow"
SIZES = {"n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 2}


@pytest.fixture
def ws(tmp_path, monkeypatch) -> Workspace:
    """A project of its own, with no MLflow to wait for."""
    for name in ("TEXTMILL_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return project(tmp_path / "one", monkeypatch)


def project(root: Path, monkeypatch, storage: Path | None = None) -> Workspace:
    (root / ".dvc").mkdir(parents=True)
    url = storage or root / ".textmill" / "storage"
    config = f"[core]\n    no_scm = true\n['remote \"storage\"']\n    url = {url}\n"
    (root / ".dvc" / "config").write_text(config)
    monkeypatch.setenv("TEXTMILL_ROOT", str(root))
    made = Workspace.open(root)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    return made


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return " ".join(done.output.replace("│", " ").split())


def public_folder(folder: Path, **change: object) -> GPT:
    """Write a model in our own layout as transformers would, with its vocabulary."""
    from modules.model.weights import export_hf

    tokenizer = Tokenizer([("h", "e"), ("Ġ", "t"), ("Ġt", "he")])
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES, vocab_size=tokenizer.n_vocab, init_std=0.3)).eval()
    checkpoint.save(model, folder / "ours")
    tokenizer.save(folder / "ours" / "tokenizer")
    export_hf(folder / "ours", folder / "hf")
    return model


def test_weights_in_and_out_are_the_same_to_transformers(ws, tmp_path):
    model = public_folder(tmp_path)
    told = run("import", tmp_path / "hf", "--name", "public")
    assert "28 1" in told and "its own, hash not known" in told
    run("import", tmp_path / "hf", "--name", "public")  # the same: nothing is made twice
    assert "checkpoint/public@" in told
    run("export", "checkpoint/public", tmp_path / "out")
    names = {"model.safetensors", "config.json", "generation_config.json", "README.md"}
    names |= {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[1, 2, 3, 250, 258]])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, model.logits(model(ids)), rtol=0, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = Tokenizer([("h", "e"), ("Ġ", "t"), ("Ġt", "he")])
    assert tokenizer("the cat, the héllo")["input_ids"] == ours.encode("the cat, the héllo")
    assert tokenizer.eos_token_id == theirs.generation_config.eos_token_id == ours.eot
    assert "checkpoint/public@" in (tmp_path / "out" / "README.md").read_text()
    again = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(again[name].equal(tensor) for name, tensor in before.items())
    with pytest.raises(FileExistsError, match="is not empty"):
        run("export", "checkpoint/public", tmp_path / "out")


def test_openais_own_files_need_their_vocabulary(ws, tmp_path):
    folder = Path(shutil.copytree(REAL, tmp_path / "release"))
    with pytest.raises(FileNotFoundError, match=r"has no vocab\.json and merges\.txt"):
        run("import", folder, "--name", "tf")
    Tokenizer([]).save(folder)
    n_vocab = json.loads((folder / "hparams.json").read_text())["n_vocab"]
    with pytest.raises(ValueError, match=f"257 entries, the model {n_vocab}"):
        run("import", folder, "--name", "tf")


def test_what_is_no_weights_is_refused_by_its_content(ws, tmp_path):
    public_folder(tmp_path)
    weights = tmp_path / "hf" / "model.safetensors"
    sound = weights.read_bytes()
    ran = tmp_path / "ran"
    pickled = b"cos\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR."
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(pickled)  # beside them: never opened
    for data, message in [
        (pickled, "not a safetensors file"),
        (b"\xff" * 16, "not a safetensors file"),
        (sound[:-10], "not a whole safetensors file"),
    ]:
        weights.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            run("import", tmp_path / "hf", "--name", "evil")
    weights.write_bytes(sound)
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"n_embd": 64', '"n_embd": 128'))
    with pytest.raises(ValueError, match="does not fit its config: wrong shape"):
        run("import", tmp_path / "hf", "--name", "evil")
    with pytest.raises(ValueError, match="not allowed"):
        run("import", tmp_path / "hf", "--name", "../evil")
    assert not ran.exists() and not list(ws.artifacts.glob("*/*/*/manifest.json"))


def test_a_model_goes_from_clone_to_clone_by_name(ws, tmp_path, monkeypatch):
    public_folder(tmp_path)
    run("import", tmp_path / "hf", "--name", "public")
    made = artifacts.look_up(ws, "checkpoint/public")
    from registry import models

    version = models.register(ws, "textmill-public", made, "local-run")
    models.promote(ws, "textmill-public", version, expected=None, reason="the first")
    assert "LOCAL ONLY" not in run("push")
    tree = run("lineage", "textmill-public@champion")
    project(tmp_path / "two", monkeypatch, ws.state / "storage")
    told = run("pull", "textmill-public@champion")
    assert "textmill-public@champion version 1" in told
    assert run("lineage", "textmill-public@champion") == tree
    assert Path(run("checkout", "textmill-public@champion").split(" ")[-1]).is_dir()
    assert "Nothing to clear up" in run("gc")
    run("pin", "checkpoint/public", "--reason", "mine")
    assert "1 artifacts stay: 1 registered versions" in run("gc")


def test_damage_ends_with_an_error_that_names_it(ws, tmp_path):
    public_folder(tmp_path)
    run("import", tmp_path / "hf", "--name", "public")
    (row,) = exchange._rows(ws, [])
    victim = next(p for p in (ws.state / "storage").rglob("*") if p.stat().st_size > 10_000)
    victim.unlink()
    assert "1 missing (model.safetensors" in run("push", "--verify", code=1)
    assert "mended 1 missing" in run("push", row.fingerprint)
    run("push", "--verify")
