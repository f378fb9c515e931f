"""Text from a model by command, as it is made."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flows.cli import app
from modules.model import checkpoint
from modules.model.generate import GenerationConfig, generate
from modules.model.gpt import GPT, GPTConfig
from modules.tokenizer import Tokenizer


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.0, "beams": 3}])
def test_streamed_text_is_the_text_of_generate(tmp_path, monkeypatch, options):
    tokenizer = Tokenizer([])
    sizes = {"n_positions": 64, "n_embd": 64, "n_layer": 1, "n_head": 2, "init_std": 0.3}
    model = GPT(GPTConfig(vocab_size=tokenizer.n_vocab, **sizes)).eval()
    checkpoint.save(model, tmp_path)
    tokenizer.save(tmp_path / "tokenizer")
    monkeypatch.setenv("TEXTMILL_ROOT", str(tmp_path))
    monkeypatch.setattr("registry.artifacts.checkout", lambda *_: SimpleNamespace(path=tmp_path))
    given = [f"--{name}={value}" for name, value in options.items()]
    done = CliRunner().invoke(app, ["generate", "né", "--max-new-tokens=40", *given])
    assert done.exit_code == 0, done.output
    beams = options.pop("beams", 1)
    config = GenerationConfig(
        **{"max_new_tokens": 40, "temperature": 0.8, "top_k": 40, "num_beams": beams} | options
    )
    ids = generate(model, [tokenizer.encode("né")], config, eot=tokenizer.eot)[0]
    assert done.output == "né" + tokenizer.decode(ids) + "\n"
