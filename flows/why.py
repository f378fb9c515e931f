"""`textmill why URL`: find the corpus in the catalogue and show the story of one address."""

from collections.abc import Sequence

from pydantic import ValidationError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.look import chain_of, checked_out
from modules.corpus.addresses import refusal
from modules.corpus.excerpt import visible
from modules.corpus.filters import reasons
from modules.corpus.links import LinksConfig
from modules.corpus.recipe import CleanConfig, webtext
from modules.corpus.story import Directories, Ledger, Story, nearest, tell
from registry import artifacts, catalogue, db, ledger
from registry.artifacts import Artifact
from registry.tables import Kind
from registry.workspace import Workspace

MARKS = {"kept": ("✓", "green"), "dropped": ("✗", "red"), "absent": ("·", "dim")}


def why(workspace: Workspace, given: str, *, corpus: str = "") -> Group:
    """Return the story of an address or document id in a corpus, to be printed.

    Args:
        corpus: which one: a name, or the fingerprint of its tokens; default: the newest.

    Raises:
        ValueError: there is no corpus, or it has never seen the address; the message names others
            of the same host.
    """
    tokens = find_tokens(workspace, corpus)
    nights = nights_of(workspace, tokens)
    directories = [{role: x.path for role, x in night.items()} for night in nights]
    names = filters_of(nights[0]["documents"])
    story = tell(given, directories, filters=names, ledger=ledger_of(workspace))
    if not story.known:
        raise ValueError(f"nowhere in corpus {tokens.name}: {around(story.address, directories)}")
    return printed(story, tokens)


def ledger_of(workspace: Workspace) -> Ledger | None:
    """Return who answers for the crawl ledger; None where nothing was ever crawled."""
    if not ledger.summary(workspace.database_url):
        return None

    def answer(url: str) -> list[str]:
        row = ledger.story(workspace.database_url, url)
        if row is None:
            return []
        told = [f"{row.state} after {row.attempts} tries, first seen {row.first_seen:%Y-%m-%d}"]
        told += [f"last outcome: {row.reason}"] if row.reason else []
        told += [f"due again {row.due:%Y-%m-%d %H:%M} UTC"] if row.due else []
        return told + ([f"stored in {row.warc} at {row.offset}"] if row.warc else [])

    return answer


def around(url: str, directories: Sequence[Directories]) -> str:
    """Return what may explain that an address is not to be found."""
    if reason := refusal(url, LinksConfig().blocked):
        return f"{url} (such addresses are refused: {reason})"
    count, like = nearest(url, directories)
    others = f"{count:,} links of that host were taken" + (f", such as {like[0]}" if like else "")
    return f"{url} ({others})"


def find_tokens(workspace: Workspace, corpus: str) -> Artifact:
    """Return the tokens of a corpus: the newest, or those of a name or fingerprint."""
    if corpus:
        named = "/" in corpus or all(c in "0123456789abcdef" for c in corpus)
        return artifacts.look_up(workspace, corpus if named else f"{Kind.TOKENS}/{corpus}")
    with db.reading(workspace.database_url) as session:
        newest = catalogue.list_artifacts(session, kind=Kind.TOKENS, limit=1)
    if not newest:
        raise ValueError("there is no corpus yet; make one with `textmill corpus sample`")
    return artifacts.look_up(workspace, newest[0].fingerprint)


def nights_of(workspace: Workspace, tokens: Artifact) -> list[dict[str, Artifact]]:
    """Return the chain of a corpus and, newest first, those of the older ones it continues."""
    nights = [checked_out(workspace, chain_of(workspace, tokens))]
    while base := nights[-1]["documents"].inputs.get("base"):
        older = artifacts.look_up(workspace, base)
        nights.append(checked_out(workspace, chain_of(workspace, older, "documents")))
    return nights


def filters_of(documents: Artifact) -> list[str]:
    """Return the names of the filters that documents went through, if this version knows them."""
    try:
        config = CleanConfig.model_validate(documents.config).filters
    except ValidationError:  # made by another version, with other settings
        return []
    exclude = {
        "wikipedia_copy": config.max_in_wikipedia,
        "in_evaluation_set": config.max_in_evaluation,
    }
    alone = config.but(max_in_wikipedia=None, max_in_evaluation=None)  # needs no references
    return reasons(webtext(alone)) + [name for name, limit in exclude.items() if limit is not None]


def printed(story: Story, tokens: Artifact) -> Group:
    """Lay a story out for the terminal; all of it comes from strangers, so nothing is markup."""
    table = Table.grid(padding=(0, 2))
    for chapter in story.chapters:
        mark, style = MARKS[chapter.outcome]
        facts = Text("\n".join(visible(fact) for fact in chapter.facts), overflow="fold")
        if chapter.outcome != "kept":
            facts.stylize(style, 0, len(chapter.facts[0]))
        table.add_row(Text(mark, style), Text(chapter.step, "bold"), facts)
    head = Text(visible(story.address or "(ready-made text)"), "bold", overflow="fold")
    about = Text(f"document {story.id} · corpus {tokens.name} {tokens.fingerprint[:12]}", "dim")
    return Group(head, about, table, Text(f"→ {visible(story.end)}", "bold"))
