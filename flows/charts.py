"""Pictures and tables of results, as PNG bytes and Markdown that the Prefect UI shows inline."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INK, PALE, ACCENT = "#1b2a41", "#b8c4d6", "#c8553d"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a GitHub-style table; numbers are right-aligned by their column's first row."""
    body = [[_cell(value) for value in row] for row in rows]
    raw = ["" if not body else value for value in (body[0] if body else [""] * len(header))]
    rule = ["---:" if _numeric(value) else "---" for value in raw]
    lines = ["| " + " | ".join(line) + " |" for line in [list(header), rule, *body]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _numeric(text: str) -> bool:
    return bool(text) and text.replace(",", "").replace(".", "").replace("-", "").isdigit()


def inline(png: bytes, alt: str) -> str:
    """Return a picture as Markdown, bytes inside (the image artifact would print its whole URI)."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _figure(width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), dpi=110, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def learning_curve(curve: Sequence[Mapping[str, Any]], floors: Mapping[str, float]) -> bytes:
    """Draw training and validation loss (nats a token), and the held-out split's n-gram floors."""
    figure, axes = _figure()
    train = [(row["step"], row["loss"]) for row in curve if row.get("loss") is not None]
    val = [(row["step"], row["val_loss"]) for row in curve if row.get("val_loss") is not None]
    if train:
        axes.plot(*zip(*train, strict=True), color=PALE, linewidth=1, label="training")
    if val:
        axes.plot(*zip(*val, strict=True), "o-", color=INK, markersize=3, label="validation")
    for name, value in floors.items():
        axes.axhline(value, color=ACCENT, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{name} {value:.2f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=ACCENT,
            fontsize=8,
        )
    axes.set(xlabel="optimizer step", ylabel="loss, nats a token")
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def bars(values: Mapping[str, float], unit: str, marks: Mapping[str, float] | None = None) -> bytes:
    """Draw one horizontal bar a name; `marks` puts a tick (a baseline) on bars that have one."""
    figure, axes = _figure(height=0.7 + 0.32 * max(len(values), 2))
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color=INK, height=0.6)
    for place, name in enumerate(names):
        axes.annotate(
            f" {values[name]:,.3g}", (values[name], place), va="center", fontsize=8, color=INK
        )
        if marks and name in marks:
            axes.plot([marks[name]] * 2, [place - 0.4, place + 0.4], color=ACCENT, linewidth=2)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", labelsize=8)
    return _png(figure)


# counts of artifacts that the table shows, and the words for them
TOLD = {
    "links": "links",
    "pages": "pages",
    "kept": "documents",
    "merges": "merges",
    "train.tokens": "training tokens",
    "steps": "steps",
    "items": "items",
    "pictures": "pictures",
}


def holds(counts: Mapping[str, Any]) -> str:
    """Return in a few words what an artifact holds."""
    return ", ".join(f"{counts[x]:,} {word}" for x, word in TOLD.items() if x in counts)
