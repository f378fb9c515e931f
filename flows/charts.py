"""Pictures and tables of results, as PNG bytes and Markdown that the Prefect UI shows inline."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SPECIAL = re.compile(r"""([\\`*_{}\[\]<>()#+!|~&$^=:@"]|(?<=www)\.)""")
"""What may begin a link, a picture, HTML or emphasis in some dialect of Markdown."""

INK, PALE, ACCENT = "#1b2a41", "#b8c4d6", "#c8553d"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a GitHub-style table; numbers are right-aligned by their column's first row."""
    body = [[_cell(value) for value in row] for row in rows]
    raw = ["" if not body else value for value in (body[0] if body else [""] * len(header))]
    rule = ["---:" if _numeric(value) else "---" for value in raw]
    lines = ["| " + " | ".join(line) + " |" for line in [list(map(literal, header)), rule, *body]]
    return "\n".join(lines)


def digits(value: float) -> str:
    """Return a number with four significant digits, or all of those before the point."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return digits(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return literal(str(value))


def literal(text: str) -> str:
    """Return text as Markdown that shows it and does nothing: for use inside a line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _numeric(text: str) -> bool:
    return bool(text) and text.replace(",", "").replace(".", "").replace("-", "").isdigit()


def inline(png: bytes, alt: str) -> str:
    """Return a picture as Markdown, bytes inside (the image artifact would print its whole URI)."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def subplots(rows: int, columns: int, width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    """Return a figure and its axes, row by row; each is `width` x `height` inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scale = 1.0 if columns == 1 else 0.75
    size = (width * columns * scale, height * rows * scale)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, dpi=110, layout="constrained", squeeze=False
    )
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK)
    return figure, list(axes.flat)


def _figure(width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    figure, [axes] = subplots(1, 1, width, height)
    return figure, axes


def in_prefixes() -> Any:
    """Return an axis's formatter for large numbers: 20 k, 3 M."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter()


def png_of(figure: Any) -> bytes:
    """Return a figure as PNG, and close it."""
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


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
    return png_of(figure)


def columns(values: Mapping[str, float], names: str, unit: str) -> bytes:
    """Draw one column a name, as in a histogram."""
    figure, axes = _figure()
    axes.bar(list(values), list(values.values()), color=INK, width=0.9)
    axes.tick_params(axis="x", labelsize=8, labelrotation=45 if len(values) > 8 else 0)
    axes.set(xlabel=names, ylabel=unit)
    return png_of(figure)


def funnel(steps: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw what each step of a corpus kept, joined and lost of what came in."""
    figure, axes = _figure(height=0.9 + 0.45 * max(len(steps), 2))
    parts = {"kept": INK, "joined": PALE, "dropped": ACCENT, "rejected": "#8d99ae"}
    names = [f"{step['name']} ({step['unit']})" for step in steps]
    start = [0.0] * len(steps)
    for part, colour in parts.items():
        lengths = [float(step[part]) for step in steps]
        if any(lengths):
            axes.barh(names, lengths, left=start, color=colour, height=0.65, label=part)
        start = [a + b for a, b in zip(start, lengths, strict=True)]
    for place, step in enumerate(steps):
        text = f" {step['kept']:,} of {step['came']:,}"
        axes.annotate(text, (start[place], place), va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("records that came in")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return png_of(figure)


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


Interval = tuple[float, float, float]
"""value, low, high"""
COLOURS = (INK, ACCENT, "#8d99ae", "#e0a458", "#4f772d", "#6d597a", "#2a9d8f", "#bc4749", "#577590")


def grouped(values: Mapping[str, Mapping[str, Interval]], unit: str) -> bytes:
    """Draw a group of bars a name and a colour a series: series -> name -> value and interval."""
    names = list(dict.fromkeys(name for series in values.values() for name in series))
    figure, axes = _figure(width=max(7.0, 1.4 * len(names)))
    width = 0.8 / max(len(values), 1)
    for number, (series, points) in enumerate(values.items()):
        places = [names.index(name) + (number + 0.5) * width - 0.4 for name in points]
        heights = [value for value, _, _ in points.values()]
        axes.bar(
            *(places, heights, width),
            yerr=_errors(list(points.values())),
            error_kw={"linewidth": 0.8},
            color=COLOURS[number % len(COLOURS)],
            label=series,
        )
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20, ha="right")
    axes.set_ylabel(unit)
    axes.legend(
        frameon=False, fontsize=8, ncols=len(values), loc="lower left", bbox_to_anchor=(0, 1)
    )
    return png_of(figure)


def curves(
    lines: Mapping[str, Sequence[tuple[Any, float, float, float]]],
    names: str,
    unit: str,
    *,
    log: bool = False,
) -> bytes:
    """Draw a curve a series with its intervals: series -> (x, value, low, high), ..."""
    figure, axes = _figure(height=4.2)
    for number, (series, points) in enumerate(lines.items()):
        axes.errorbar(
            [x for x, *_ in points],
            [value for _, value, _, _ in points],
            yerr=_errors([(value, low, high) for _, value, low, high in points]),
            color=COLOURS[number % len(COLOURS)],
            linestyle="--" if "LSTM" in series else "-",
            **{"marker": "o", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.7, "capsize": 2},
            label=series,
        )
    if log:
        axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel=names, ylabel=unit)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return png_of(figure)


Line = Sequence[tuple[float, float, float, float]]
"""x, value, low, high; ..."""


def by_size(panels: Mapping[str, Mapping[str, Line]]) -> bytes:
    """Draw scores against parameters: title -> series -> points; the second series in colour."""
    rows = -(-len(panels) // 3)
    figure, places = subplots(rows, 3, width=4.6, height=3.0)
    for axes, (title, series) in zip(places, panels.items(), strict=False):
        for (label, points), colour in zip(series.items(), (INK, ACCENT), strict=False):
            axes.errorbar(
                [x for x, *_ in points],
                [value for _, value, _, _ in points],
                yerr=_errors([(value, low, high) for _, value, low, high in points]),
                **{"marker": "o", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.7},
                **{"capsize": 2, "color": colour, "label": label},
            )
        axes.set_xscale("log")
        if "perplexity" in title:
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.legend(frameon=False, fontsize=7)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return png_of(figure)


def _errors(points: Sequence[Interval]) -> list[list[float]]:
    """Return how far intervals reach below and above their values."""
    below = [max(0.0, value - low) for value, low, _ in points]
    return [below, [max(0.0, high - value) for value, _, high in points]]


def reliability(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Draw how often predictions are right against how sure they are, one panel a binning."""
    figure, panels = subplots(1, len(bins), width=4.6, height=4.2)
    for axes, (name, rows) in zip(panels, bins.items(), strict=True):
        most = max(row["n"] for row in rows)
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
        axes.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], color=INK, lw=1)
        for row in rows:
            size = 12 + 60 * row["n"] / most  # points; larger where more predictions are
            axes.scatter(row["confidence"], row["accuracy"], s=size, color=ACCENT, zorder=3)
        axes.set(xlabel="confidence", ylabel="accuracy", title=f"bins of {name.replace('_', ' ')}")
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02))
    return png_of(figure)
