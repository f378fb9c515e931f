"""Lineage as a picture: input files on the left, the model on the right, every hash on its box."""

import html
import io
import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.charts import ACCENT, INK, holds, inline
from flows.layers import Edge, Layout, columns_of, lay_out
from flows.lineage import read
from flows.page import POLICY, STYLE
from modules.files import write_bytes
from registry.lineage import Ancestry
from registry.tables import Artifact

if TYPE_CHECKING:
    from flows.stage import Stage

SIZE = 8.0  # points; so are all lengths here
LETTER = 0.602 * SIZE  # the width of every letter of DejaVu Sans Mono
LINE = 1.35 * SIZE
PAD, GAP, AISLE, BEND, MARGIN = 6.0, 14.0, 32.0, 4.0, 16.0
DPI = 120
DRAWN = {"svg.fonttype": "none", "svg.hashsalt": "textmill", "text.hinting": "none"}
FORMATS = ("svg", "png", "html")
ABREAST = 3  # boxes of a layer, up to which layers are rows
MOST = 34  # letters of a line in a box
FILES = 4  # files named in a box
COLOURS = {"data": "#f4efe6", "model": "#f6ded8"}  # others are white


@dataclass(frozen=True)
class Box:
    """What is written on a box, and its colour."""

    lines: list[str]  # the first one is its title
    colour: str

    @property
    def width(self) -> float:
        """Of all its letters, and some air."""
        return max(map(len, self.lines)) * LETTER + 2 * PAD

    @property
    def height(self) -> float:
        """Of all its lines, and some air."""
        return len(self.lines) * LINE + 2 * PAD


def save(found: Ancestry, title: str, path: Path) -> None:
    """Write the picture as .svg or .png, or with everything that is known as a page, .html.

    Raises:
        ValueError: another ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise ValueError(f"--picture {path.name}: it must end with .svg, .png or .html")
    data = page(found, title).encode() if ending == "html" else draw(found, title, ending)
    write_bytes(path, data)


def show_lineage(at: "Stage", reference: str, *, attach: bool = False) -> None:
    """Show what a model was made from on a flow run's page, and on its MLflow run if asked."""
    from flows.stage import show  # imports Prefect, which the command line does without

    png = draw(read(at.workspace, reference), f"Lineage of {reference}", "png")
    show("lineage", inline(png, f"Lineage of {reference}"), f"What {reference} was made from")
    if attach:
        at.attach(png, "lineage.png")


def boxes_of(found: Ancestry) -> tuple[dict[Hashable, Box], list[Edge]]:
    """Return the boxes, and which leads to which."""
    boxes: dict[Hashable, Box] = {x.fingerprint: _artifact(found, x) for x in found.artifacts}
    boxes |= {data: _files(found, data) for data in found.files}
    edges: list[Edge] = [
        (edge.parent.fingerprint if edge.parent else edge.data, edge.child.fingerprint)
        for edge in found.edges
    ]
    for model in found.models:
        name = f"{model.name}/{model.version}"
        lines = [f"model {model.name}", f"version {model.version}", f"{model.created:%Y-%m-%d}"]
        boxes[name] = Box([_short(line) for line in lines], COLOURS["model"])
        edges.append((found.root.fingerprint, name))
    return boxes, list(dict.fromkeys(edges))


def _artifact(found: Ancestry, artifact: Artifact) -> Box:
    """Return an artifact's box."""
    run = found.runs.get(artifact.run_id or "")
    lines = [
        f"{artifact.kind} {artifact.name}",
        artifact.fingerprint[:16],
        f"{artifact.created:%Y-%m-%d %H:%M}, {artifact.size / 1e6:.1f} MB",
        f"commit {artifact.git_commit[:8]}",
        *([f"run {run.id}, {run.stage}"] if run else []),
        *([f"flow run {run.flow_run_id[:13]}"] if run and run.flow_run_id else []),
        *filter(None, holds(artifact.counts).split(", ")),
    ]
    return Box([_short(line) for line in lines], "white")


def _files(found: Ancestry, data: str) -> Box:
    """Return the box of some input files."""
    files = found.files[data]
    named = [f"{x.path.removeprefix('data/')}" for x in files[:FILES]]
    more = [f"and {len(files) - FILES:,} more"] if len(files) > FILES else []
    lines = ["input files", data[:16], *named, *more]
    return Box([_short(line) for line in lines], COLOURS["data"])


def _short(line: str) -> str:
    """Return a line that a box has room for."""
    return line if len(line) <= MOST else f"{line[: MOST - 12]}…{line[-11:]}"


def draw(found: Ancestry, title: str, ending: str) -> bytes:
    """Return the picture as SVG or PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    boxes, edges = boxes_of(found)
    plan = Plan.of(boxes, edges)
    width, height = plan.size
    width = max(width, len(title) * LETTER * 1.4 + 2 * MARGIN)
    with plt.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "textmill", "text.hinting": "none"}
    ):
        figure = plt.figure(figsize=(width / 72, height / 72), dpi=144)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        axes.text(MARGIN, MARGIN + LINE / 2, title, size=10, weight="bold", color=INK, va="center")
        for name, box in boxes.items():
            _box(axes, box, *plan.corner(name))
        for edge in edges:
            _line(axes, plan.points(edge), upright=plan.upright)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, metadata={"Date": None} if ending == "svg" else None)
        plt.close(figure)
    return buffer.getvalue()


@dataclass(frozen=True)
class Plan:
    """Where everything is drawn; `upright`: layers are rows, else columns."""

    boxes: dict[Hashable, Box]
    layout: Layout
    upright: bool
    start: list[float]  # where each layer begins
    shift: float  # of the middle line

    @classmethod
    def of(cls, boxes: dict[Hashable, Box], edges: list[Edge]) -> "Plan":
        """Place boxes: a chain from top to bottom, what has wide layers from left to right."""
        column = columns_of(list(boxes), edges)
        upright = max(Counter(column.values()).values()) <= ABREAST
        across = {name: box.width if upright else box.height for name, box in boxes.items()}
        layout = lay_out(across, edges, gap=GAP, bend=BEND)
        start = [MARGIN + (2 * LINE if upright else 0)]
        for layer in range(max(column.values()) + 1):
            inside = [box for name, box in boxes.items() if column[name] == layer]
            start.append(start[-1] + max(x.height if upright else x.width for x in inside) + AISLE)
        reach = [layout.middle[name] - across[name] / 2 for name in boxes]
        low = min(*reach, *(layout.middle.values()))
        return cls(boxes, layout, upright, start, MARGIN + (0 if upright else 2 * LINE) - low)

    @property
    def size(self) -> tuple[float, float]:
        """The picture's width and height."""
        ends = [self.corner(name) for name in self.boxes]
        boxes = self.boxes.values()
        width = max(x + box.width for (x, _), box in zip(ends, boxes, strict=True))
        height = max(y + box.height for (_, y), box in zip(ends, boxes, strict=True))
        most = max(self.layout.middle.values()) + self.shift  # lines may pass outside of all boxes
        return (
            max(width, most if self.upright else 0) + MARGIN,
            max(height, 0 if self.upright else most) + MARGIN,
        )

    def corner(self, name: Hashable) -> tuple[float, float]:
        """Return the left upper corner of a box."""
        box, middle = self.boxes[name], self.layout.middle[name] + self.shift
        start = self.start[self.layout.column[name]]
        if self.upright:
            return middle - box.width / 2, start
        return start, middle - box.height / 2

    def points(self, edge: Edge) -> list[tuple[float, float]]:
        """Return the points of a line; it is straight through layers, and bends between them."""
        first, *between, last = self.layout.path[edge]
        box, layer = self.boxes[first], self.layout.column[first]
        end = self.start[layer] + (box.height if self.upright else box.width)
        points = [(end, first), (self.start[layer + 1] - AISLE, first)]
        for bend in between:
            layer = self.layout.column[bend]
            points += [(self.start[layer], bend), (self.start[layer + 1] - AISLE, bend)]
        points.append((self.start[self.layout.column[last]], last))
        placed = [(along, self.layout.middle[name] + self.shift) for along, name in points]
        return [(y, x) for x, y in placed] if self.upright else placed


def _box(axes: Any, box: Box, left: float, top: float) -> None:
    """Draw a box with its lines."""
    from matplotlib.patches import FancyBboxPatch

    colours = {"facecolor": box.colour, "edgecolor": INK, "linewidth": 0.8}
    shape = "round,pad=0,rounding_size=4"
    patch = FancyBboxPatch((left, top), box.width, box.height, boxstyle=shape, zorder=2)
    patch.set(**colours)
    axes.add_patch(patch)
    for number, line in enumerate(box.lines):
        axes.text(
            left + PAD,
            top + PAD + (number + 0.5) * LINE,
            line,
            **{"size": SIZE, "family": "DejaVu Sans Mono", "va": "center", "zorder": 3},
            color=INK if number == 0 else "#44546a",
            weight="bold" if number == 0 else "normal",
        )


def _line(axes: Any, points: list[tuple[float, float]], *, upright: bool) -> None:
    """Draw a line through points, with the head of an arrow at its end."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    path, codes = [points[0]], [Curve.MOVETO]
    for (x, y), (to_x, to_y) in pairwise(points):
        if upright:
            path += [(x, (y + to_y) / 2), (to_x, (y + to_y) / 2), (to_x, to_y)]
        else:
            path += [((x + to_x) / 2, y), ((x + to_x) / 2, to_y), (to_x, to_y)]
        codes += [Curve.CURVE4] * 3
    axes.add_patch(
        PathPatch(Curve(path, codes), facecolor="none", edgecolor="#8d99ae", linewidth=1)
    )
    x, y = points[-1]
    at = (x, y - 2) if upright else (x - 2, y)
    axes.plot(*([z] for z in at), marker="v" if upright else ">", markersize=4, color=ACCENT)


def page(found: Ancestry, title: str) -> str:
    """Return the picture, and below it everything the catalogue says, as one HTML file."""
    svg = draw(found, title, "svg").decode()
    picture = svg[svg.index("<svg") :]  # without the XML declaration
    parts = "".join(_details(found, artifact) for artifact in found.artifacts)
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{STYLE} body{{max-width:none}} svg{{max-width:100%;height:auto}}</style>"
        f"<h1>{name}</h1>{picture}{parts}</html>"
    )


def _details(found: Ancestry, artifact: Artifact) -> str:
    """Return an artifact's config, counts, files and run, folded."""
    run = found.runs.get(artifact.run_id or "")
    made = {"run": run.id, "stage": run.stage, "flow run": run.flow_run_id} if run else {}
    told = {
        "fingerprint": artifact.fingerprint,
        "made by": made,
        "commit": artifact.git_commit,
        "data": artifact.data_version,
        "config": artifact.config,
        "counts": artifact.counts,
        "libraries": artifact.manifest.get("libraries", {}),
        "files": artifact.manifest["files"],
    }
    text = html.escape(json.dumps(told, indent=1, ensure_ascii=False))
    name = html.escape(f"{artifact.kind} {artifact.name} {artifact.fingerprint[:16]}")
    return f"<details><summary>{name}</summary><pre>{text}</pre></details>"
