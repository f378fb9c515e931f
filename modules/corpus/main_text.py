"""HTML to the text people came for: parse with Resiliparse, take frames and menus away, print.

GPT-2 used Dragnet and Newspaper (section 2.1); both are unmaintained. Runs inside the worker
processes of extract.py, since a parser may crash on a hostile page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree

NEVER_SHOWN = frozenset(("script", "style", "noscript", "template", "iframe", "object", "svg"))
NEVER_TEXT = NEVER_SHOWN | frozenset(("nav", "form", "button", "select", "dialog"))
NEVER_TEXT_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "search", "menu", "menubar", "dialog")
)
# names that page frames carry, as whole parts of a class or id (`docnav`, `page-footer`)
FRAME_NAME = re.compile(
    r"(?:^|[-_ ])(?:\w*nav|navbar|navigation|\w*menu|breadcrumbs?|crumbs|footer|\w*header|masthead|"
    r"banner|copyright|cookies?|consent|pagination|pager|skip|search\w*)(?:$|[-_ ])",
    re.IGNORECASE,
)
# names that may as well be those of text (a "sidebar" may be a box in a book): only with links
LINKS_NAME = re.compile(
    r"(?:^|[-_ ])(?:\w*sidebar|share|sharing|social|related|\w*langs?|languages?|widget|prev|next|"
    r"\w*toc|contents|recent|tags)(?:$|[-_ ])",
    re.IGNORECASE,
)
SECTIONS = frozenset(("body", "main", "article", "section", "div", "center", "header", "footer"))
# what is looked into; frames do not start inside a paragraph
CONTAINERS = SECTIONS | frozenset(("aside", "table", "tbody", "tr", "td"))
FRAME_TAGS = frozenset(("header", "footer"))
MAIN = "main, [role=main], article"
MIN_MAIN_SHARE = 0.25  # of the page's words; a smaller <main> or <article> is one of many
MAX_FRAME_WORDS = 60  # a frame element with few words goes, whatever they are
MAX_FRAME_SHARE = 0.4  # of the page's words; a larger element is the page itself
MIN_LINK_SHARE = 0.4  # of an element's letters; above it, an element named like a frame is one
ONLY_LINKS = 0.97  # of the page's letters; above it, a page without a sentence is a list of links
MIN_SENTENCE = 8  # words of a line that ends like a sentence
MAX_NAME = 200  # characters of a class or id that are looked at
DATE_FIELDS = (
    'meta[property="article:published_time"]',
    'meta[itemprop="datePublished"]',
    'meta[name="date"]',
    'meta[name="dc.date"]',
    'meta[name="DC.date"]',
)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ][0-9:.+Z-]*)?")


@dataclass(frozen=True)
class MainText:
    """What a page says."""

    text: str
    title: str
    date: str  # as the page declares it, ISO 8601; empty if it does not
    only_links: bool


def _words(element: ElementNode) -> int:
    """Count the words of an element."""
    return len((element.text or "").split())


def _children(element: ElementNode) -> Iterator[ElementNode]:
    """Yield child elements by their links; the library's lists take quadratic time."""
    child = element.first_element_child
    while child is not None:
        following = child.next_element_sibling  # asked first: the caller may take the child away
        yield child
        child = following


def _link_share(element: ElementNode) -> float:
    """Return which part of an element's letters stands in links."""
    linked, waiting = 0, [element]
    while waiting:
        node = waiting.pop()
        if node.tag == "a" and node.hasattr("href"):
            linked += _letters(node)
        else:
            waiting.extend(_children(node))
    return linked / max(1, _letters(element))


def _letters(element: ElementNode) -> int:
    """Count the characters of an element that are no white space."""
    return len("".join((element.text or "").split()))


def _has_sentence(text: str) -> bool:
    """Tell whether a line of a text reads like a sentence."""
    lines = (line.rstrip() for line in text.split("\n"))
    return any(
        line.endswith((".", "!", "?", ":", "。")) and len(line.split()) >= MIN_SENTENCE
        for line in lines
    )


def _is_frame(element: ElementNode, page_words: int) -> bool:
    """Tell whether an element is part of the frame around the text."""
    if element.tag in NEVER_TEXT or element.getattr("role", "") in NEVER_TEXT_ROLES:
        return True
    name = f"{(element.class_name or '')[:MAX_NAME]} {(element.id or '')[:MAX_NAME]}"
    framed = element.tag in FRAME_TAGS or FRAME_NAME.search(name) is not None
    if not framed and element.tag != "aside" and not LINKS_NAME.search(name):
        return False
    words = _words(element)
    if words > MAX_FRAME_SHARE * page_words:
        return False
    is_small = words <= MAX_FRAME_WORDS and element.query_selector("h1") is None  # not the title
    return (framed and is_small) or _link_share(element) >= MIN_LINK_SHARE


def remove_frames(root: ElementNode) -> None:
    """Take the elements of the page's frame out of a tree, outermost first."""
    page_words = _words(root)
    waiting = [root]
    while waiting:
        for child in _children(waiting.pop()):
            if _is_frame(child, page_words):
                child.decompose()
            elif child.tag in CONTAINERS:
                waiting.append(child)


def main_root(tree: HTMLTree) -> ElementNode | None:
    """Return the element that holds the text: the one <main> or <article>, else the body."""
    body = tree.body
    if body is None:
        return None
    found = body.query_selector_all(MAIN)
    if len(found) == 1 and _words(found[0]) >= MIN_MAIN_SHARE * _words(body):
        return found[0]
    return body


def page_date(tree: HTMLTree) -> str:
    """Return the date of publication that a page declares, or an empty string."""
    head = tree.head
    if head is None:
        return ""
    for selector in DATE_FIELDS:
        field = head.query_selector(selector)
        match = DATE.match((field.getattr("content", "") or "").strip()) if field else None
        if match:
            return match.group()
    return ""


def main_text(html: str) -> MainText:
    """Return the main text of a page, its title and its date."""
    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())
    root = main_root(tree)
    if root is None or not (root.text or "").strip():
        return MainText("", title, "", False)
    date = page_date(tree)
    remove_frames(root)
    text = extract_plain_text(
        root.html, preserve_formatting=True, list_bullets=False, alt_texts=False
    )
    only_links = _link_share(root) > ONLY_LINKS and not _has_sentence(text)
    return MainText(text, title, date, only_links)
