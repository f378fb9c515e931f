"""What commands that take a preset share: the argument, `--set`, and the run they mean."""

import json
from typing import Annotated, Any

import typer

EXAMPLE = "corpus.clean.filters.min_words=60"
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help=f"Change one setting of the preset, e.g. --set {EXAMPLE} (repeatable).",
    ),
]
Preset = Annotated[
    str, typer.Argument(help="A named run: sample, tiny, gpt1, gpt2, gpt2-medium, ...")
]


def load_preset(name: str, changes: list[str] | None) -> Any:
    """Return the run of a preset with `--set` changes applied and checked."""
    from modules.presets import get

    return changed(get(name), changes or [])


def changed(config: Any, changes: list[str]) -> Any:
    """Apply PATH=VALUE changes to a nested config.

    Raises:
        ValueError: a change is not PATH=VALUE, or names a setting that is not there.
    """
    values = config.model_dump()
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: expected PATH=VALUE")
        target, *_ = [values]
        *parents, last = path.split(".")
        for part in parents:
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict) or last not in target:
            raise ValueError(f"--set {change}: {type(config).__name__} has no setting {path!r}")
        try:
            target[last] = json.loads(text)
        except ValueError:
            target[last] = text
    return type(config).model_validate(values)
