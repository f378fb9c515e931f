"""HTML to the text people came for: parse with Resiliparse, take frames and menus away, print.

GPT-2 used Dragnet and Newspaper (section 2.1); both are unmaintained. Runs inside the worker
processes of extract.py, since a parser may crash on a hostile page.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree

NEVER_SHOWN = frozenset(("script", "style", "noscript", "template", "iframe", "object", "svg"))
NEVER_TEXT = NEVER_SHOWN | frozenset(("nav", "form", "button", "select", "dialog"))
NEVER_TEXT_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "search", "menu", "menubar", "dialog")
)
# names that page frames carry, as whole parts of a class or id (`docnav`, `page-footer`)
FRAME_NAME = re.compile(
    r"(?:^|[-_ ])(?:\w*nav|navbar|navigation|\w*menu|breadcrumbs?|crumbs|\w*footer|\w*header|"
    r"masthead|banner|copyright|cookies?|consent|pagination|pager|skip|search\w*)(?:$|[-_ ])",
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
LISTS = frozenset(("ul", "ol", "dl", "table"))
FRAME_TAGS = frozenset(("header", "footer"))
MAIN = "main, [role=main], article"
MIN_MAIN_SHARE = 0.25  # of the page's words; a smaller <main> or <article> is one of many
MAX_FRAME_WORDS = 60  # a frame element with few words goes, whatever they are
MAX_FRAME_SHARE = 0.4  # of the page's words; a larger element is the page itself
MAX_LABEL_WORDS = 15  # of an element named like links that goes although most is no link
MIN_LINK_SHARE = 0.4  # of an element's letters; above it, an element named like a frame is one
ONLY_LINKS = 0.97  # of the page's letters; above it, a page without a sentence is a list of links
MIN_SENTENCE = 8  # words of a line that ends like a sentence
MIN_LINKS = 3  # a list with fewer links is not one of links
LIST_LINK_SHARE = 0.8  # of a list's letters
MAX_NAME = 200  # characters of a class or id that are looked at
# of HTML that the library has written: attributes in double quotes
LINK = re.compile(r'<a\b([^>"]*+(?:"[^"]*+"[^>"]*+)*+)>(.*?)</a>', re.DOTALL)
TAG = re.compile(r'<[a-z/!][^>"]*+(?:"[^"]*+"[^>"]*+)*+>', re.IGNORECASE)
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


def _letters(html: str) -> int:
    """Count the characters of HTML that are neither tags nor white space."""
    return len("".join(TAG.sub("", html).split()))


def _count_links(element: ElementNode) -> int:
    """Count the links of an element."""
    return len(element.get_elements_by_tag_name("a"))


def _link_share(html: str) -> float:
    """Return which part of the letters stands in links, in HTML that the library has written."""
    links = (text for attributes, text in LINK.findall(html) if " href=" in attributes)
    return _letters("".join(links)) / max(1, _letters(html))


def has_sentence(text: str) -> bool:
    """Tell whether a line of a text reads like a sentence."""
    lines = (line.rstrip() for line in text.split("\n"))
    return any(
        line.endswith((".", "!", "?", ":", "。")) and len(line.split()) >= MIN_SENTENCE
        for line in lines
    )


@lru_cache(maxsize=4096)
def _named(name: str) -> tuple[bool, bool]:
    """Tell what a class and id say: part of a frame, or something made of links."""
    return FRAME_NAME.search(name) is not None, LINKS_NAME.search(name) is not None


def _is_frame(element: ElementNode, tag: str, page_words: int) -> bool:
    """Tell whether an element is part of the frame around the text."""
    if tag in NEVER_TEXT or element.getattr("role", "") in NEVER_TEXT_ROLES:
        return True
    classes, own = element.class_name, element.id
    framed = linked = False
    if classes or own:
        framed, linked = _named(f"{(classes or '')[:MAX_NAME]} {(own or '')[:MAX_NAME]}")
    framed = framed or tag in FRAME_TAGS
    if not framed and not linked and tag != "aside":
        return False
    text = element.text or ""
    words = len(text.split())
    if words > MAX_FRAME_SHARE * page_words:
        return False
    if framed and words <= MAX_FRAME_WORDS and element.query_selector("h1") is None:
        return True  # small, and not the title
    links = _count_links(element)
    if links and words <= MAX_LABEL_WORDS and not has_sentence(text):
        return True  # "Languages: en | fr"
    return links > 0 and _link_share(element.html) >= MIN_LINK_SHARE


def _is_link_list(element: ElementNode) -> bool:
    """Tell whether an element is a list of links: contents, an index, the way to a page."""
    if _count_links(element) < MIN_LINKS:
        return False
    return _link_share(element.html) >= LIST_LINK_SHARE


def remove_frames(root: ElementNode, page_words: int) -> list[ElementNode]:
    """Take the page's frame out of a tree; return the lists of links that are left."""
    lists, waiting = [], [root]
    while waiting:
        child = waiting.pop().first_element_child  # the library's lists take quadratic time
        while child is not None:
            following = child.next_element_sibling  # asked first: the child may be taken away
            tag = child.tag or ""
            if _is_frame(child, tag, page_words):
                child.decompose()
            elif tag in LISTS and _is_link_list(child):
                lists.append(child)
            elif tag in CONTAINERS:
                waiting.append(child)
            child = following
    return lists


def main_root(tree: HTMLTree) -> tuple[ElementNode | None, int]:
    """Return what holds the text, the one <main> or <article> or else the body, and its words."""
    body = tree.body
    if body is None:
        return None, 0
    words = _words(body)
    found = body.query_selector_all(MAIN)
    if len(found) == 1 and (inside := _words(found[0])) >= MIN_MAIN_SHARE * words:
        return found[0], inside
    return body, words


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


def _plain(html: HTMLTree | str) -> str:
    """Print HTML as text, paragraphs apart."""
    return extract_plain_text(html, preserve_formatting=True, list_bullets=False, alt_texts=False)


def main_text(html: str) -> MainText:
    """Return the main text of a page, its title and its date."""
    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())
    root, words = main_root(tree)
    if root is None or not words:
        return MainText("", title, "", False)
    date = page_date(tree)
    lists = remove_frames(root, words)
    if root.tag != "body" and tree.body is not None:
        tree.body.replace_children(root)
    whole = root.html if lists else ""
    for element in lists:
        element.decompose()
    text = _plain(tree)
    if has_sentence(text):
        return MainText(text, title, date, False)
    if lists:  # they are what there is to read
        text = _plain(whole)
    return MainText(text, title, date, _link_share(whole or root.html) > ONLY_LINKS)
