"""Pieces of strangers' text made safe to print: short, and nothing in them but visible text."""

import unicodedata

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that are not shown: terminal escapes, text that turns direction, ..."""


def visible(text: str) -> str:
    """Return text on one line, every control or formatting character replaced by U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    shown = (c if unicodedata.category(c) not in HIDDEN else "\ufffd" for c in text)
    return "".join(" " if raw in "\t\r\n" else c for raw, c in zip(text, shown, strict=True))


def excerpt(text: str, lines: int, width: int) -> str:
    """Return the first lines that hold something, each cut to a width."""
    found = [visible(line).strip() for line in text[: 4 * lines * width].split("\n")]
    found = [line if len(line) <= width else line[: width - 1] + "…" for line in found if line]
    return "\n".join(found[:lines] + ["…"] * (len(found) > lines))
