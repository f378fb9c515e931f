"""The commands that bring public weights in and give ours away: `textmill weights ...`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal import console

app = typer.Typer(no_args_is_help=True, help="Import public weights, export ours.")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Hugging Face's files, or OpenAI's release.")],
    out: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
) -> None:
    """Turn public weights into a checkpoint: gpt2 or openai-gpt, safetensors or OpenAI's own files.

    What is in the folder decides: config.json (Hugging Face), hparams.json (GPT-2's TensorFlow
    checkpoint) or params_shapes.json (GPT-1's numpy pieces).
    """
    from modules.model.releases import import_any

    counts = import_any(folder, out)
    console.print(f"{out}: {counts['tensors']} tensors, {counts['parameters']:,} parameters")


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A model or checkpoint, or its folder.")],
    out: Annotated[Path, typer.Argument(help="Where transformers' files go.")],
) -> None:
    """Write a GPT as transformers loads it: config.json, safetensors, the tokenizer's files."""
    from flows.settings import enter
    from modules.model.weights import export_hf
    from registry import artifacts

    own = Path(checkpoint)
    counts = export_hf(own if own.is_dir() else artifacts.checkout(enter(), checkpoint).path, out)
    console.print(f"{out}: {counts['tensors']} tensors, {counts['parameters']:,} parameters")
