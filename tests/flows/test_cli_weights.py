"""Public weights in and out by command: what goes in comes out."""

from pathlib import Path

from safetensors.torch import load_file
from typer.testing import CliRunner

from flows.cli import app

REAL = Path(__file__).parents[1] / "modules/model/gpt2_tensorflow"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_tensorflow_to_transformers_and_back(tmp_path):
    assert "28 tensors" in run("import", REAL, tmp_path / "ours")
    assert "28 tensors" in run("export", tmp_path / "ours", tmp_path / "hf")
    run("import", tmp_path / "hf", tmp_path / "again")
    ours, again = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert ours.keys() == again.keys()
    assert all(ours[name].equal(again[name]) for name in ours)
