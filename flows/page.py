"""Pages of results as Markdown (for the Prefect UI) and as one self-contained HTML file.

A page is a list of blocks. Text in them comes from strangers' web pages and from models, so every
piece is escaped here, in both forms: nothing of it may become a tag, a link or a picture.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.charts import inline, literal, markdown_table
from modules.files import write_bytes

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b2a41;max-width:62rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;
border-bottom:1px solid #dde3ec;text-align:left;overflow-wrap:anywhere}
th{border-bottom:2px solid #1b2a41}td.n,th.n{text-align:right;white-space:nowrap}
img{max-width:100%}pre{color:#44546a;border-left:3px solid #b8c4d6;margin:.3rem 0 1.2rem;
padding-left:1rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
p{margin:.3rem 0}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no script, no network
NUMBER = re.compile(r"[-+]?[\d,.]+ ?%?")


@dataclass(frozen=True)
class Shown:
    """One table of a page."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def as_markdown(self) -> str:
        """Return the table under its title."""
        table = markdown_table(self.header, self.rows) if self.rows else "none"
        return _joined(f"## {literal(self.title)}", table, literal(self.note))

    def as_html(self) -> str:
        """Return the table under its title."""
        first = self.rows[0] if self.rows else [""] * len(self.header)
        right = [bool(NUMBER.fullmatch(cell)) for cell in first]
        rows = "".join(_cells(row, right, "td") for row in self.rows)
        table = (
            f"<table>{_cells(self.header, right, 'th')}{rows}</table>" if rows else "<p>none</p>"
        )
        return f"<h2>{html.escape(self.title)}</h2>{table}<p>{html.escape(self.note)}</p>"


@dataclass(frozen=True)
class Picture:
    """A PNG under a title."""

    title: str
    png: bytes

    def as_markdown(self) -> str:
        """Return the picture, bytes inside."""
        return _joined(f"## {literal(self.title)}", inline(self.png, literal(self.title)))

    def as_html(self) -> str:
        """Return the picture, bytes inside."""
        source = base64.b64encode(self.png).decode()
        return (
            f'<h2>{html.escape(self.title)}</h2><img alt="" src="data:image/png;base64,{source}">'
        )


@dataclass(frozen=True)
class Quote:
    """A piece of text and what is said about it (the first in bold)."""

    about: Sequence[str]
    text: str = ""

    def as_markdown(self) -> str:
        """Return a line about the text and the text in a fence that it cannot close."""
        first, *rest = map(literal, self.about)
        longest = max((len(run) for run in re.findall("`+", self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        about = " · ".join([f"**{first}**", *filter(None, rest)])
        return _joined(about, f"{fence}text\n{self.text}\n{fence}" if self.text else "")

    def as_html(self) -> str:
        """Return a line about the text and the text as it stands."""
        first, *rest = map(html.escape, self.about)
        about = " · ".join([f"<b>{first}</b>", *filter(None, rest)])
        return f"<p>{about}</p>" + (f"<pre>{html.escape(self.text)}</pre>" if self.text else "")


@dataclass(frozen=True)
class Quotes:
    """Pieces of text under a title."""

    title: str
    quotes: Sequence[Quote] = field(default_factory=list)
    note: str = ""

    def as_markdown(self) -> str:
        """Return the pieces one after the other."""
        return _joined(
            f"## {literal(self.title)}", literal(self.note), *(q.as_markdown() for q in self.quotes)
        )

    def as_html(self) -> str:
        """Return the pieces one after the other."""
        body = "".join(quote.as_html() for quote in self.quotes)
        return f"<h2>{html.escape(self.title)}</h2><p>{html.escape(self.note)}</p>{body}"


Block = Shown | Picture | Quotes


def as_markdown(title: str, blocks: Sequence[Block], *, at_most: int = 0) -> str:
    """Return a page as Markdown; with `at_most` characters, the blocks that fit."""
    parts = [f"# {literal(title)}"]
    for block in blocks:
        part = block.as_markdown()
        if at_most and sum(map(len, parts)) + len(part) > at_most:
            parts.append("This page is cut here; the whole is in the artifact's report.")
            break
        parts.append(part)
    return _joined(*parts) + "\n"


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Return a page as one file that loads nothing and runs nothing."""
    name = html.escape(title)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{name}</title><style>{STYLE}</style>"
        f"<body><h1>{name}</h1>{''.join(block.as_html() for block in blocks)}</body></html>\n"
    )


def write_page(out: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write report.md and report.html."""
    write_bytes(out / "report.md", as_markdown(title, blocks).encode("utf-8", "replace"))
    write_bytes(out / "report.html", as_html(title, blocks).encode("utf-8", "replace"))


def _joined(*parts: str) -> str:
    """Join the parts that hold something by empty lines."""
    return "\n\n".join(part for part in parts if part)


def _cells(row: Sequence[str], right: Sequence[bool], tag: str) -> str:
    """Return one row of a table; columns of numbers are aligned to the right."""
    cells = (
        f"<{tag}{' class=n' if n else ''}>{html.escape(cell)}</{tag}>"
        for cell, n in zip(row, right, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"
