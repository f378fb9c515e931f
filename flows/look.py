"""How a finished corpus looks: made once for each corpus, shown in the Prefect UI and in reports.

modules/corpus/look.py counts and samples; this file finds the corpus in the catalogue by lineage
and lays the numbers out as pages.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.charts import columns, funnel
from flows.page import Block, Picture, Quote, Quotes, Shown, as_markdown, write_page
from flows.spread import spread
from flows.stage import Stage, show
from modules.corpus.contents import LookConfig
from modules.corpus.look import Corpus, Part, look_at
from modules.files import Progress, write_json
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind
from registry.workspace import Workspace

ROLES = ("tokens", "documents", "text", "pages", "links")
"""From tokens down to links: each was made from the next, as the input of that role."""

# openai/gpt-2, domains.txt: the 15 domains with most documents in WebText, in order
WEBTEXT = (
    *("google", "archive", "blogspot", "github", "nytimes", "wordpress", "washingtonpost", "wikia"),
    *("bbc", "theguardian", "ebay", "pastebin", "cnn", "yahoo", "huffingtonpost"),
)
MOST = 500_000  # characters of one Prefect artifact
MANY = 50_000  # documents


def chain_of(workspace: Workspace, start: Artifact, role: str = ROLES[0]) -> dict[str, Artifact]:
    """Return what an artifact (tokens, or what `role` says) was made from, by step.

    Raises:
        ValueError: it was not made by a whole chain.
    """
    found = {role: start}
    for below in ROLES[ROLES.index(role) + 1 :]:
        if below not in start.inputs:
            raise ValueError(f"{start.reference} was not made from {below}: its chain is broken")
        start = found[below] = artifacts.look_up(workspace, start.inputs[below])
    return found


def checked_out(workspace: Workspace, chain: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Bring the bytes of a chain here, where they are not."""
    return {
        role: artifacts.checkout(workspace, artifact.reference, verify=False)
        for role, artifact in chain.items()
    }


def make_look(at: Stage, name: str, tokens: Artifact) -> Artifact:
    """Look at the corpus that tokens are the end of: look.json, report.md and report.html."""
    chain, config = chain_of(at.workspace, tokens), LookConfig()

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        here = checked_out(at.workspace, chain)
        parts = {role: Part(x.path, x.counts) for role, x in here.items()}
        if base := here["documents"].inputs.get("base"):
            older = artifacts.checkout(at.workspace, base, verify=False).path
            names = frozenset(path.name for path in older.iterdir())
            parts["documents"] = replace(parts["documents"], older=names)
        corpus = Corpus(**parts)
        large = chain["documents"].counts["kept"] > MANY
        with spread(0 if large else 1) as over:  # processes take longer to start than a few shards
            look = look_at(corpus, config, spread=over, progress=progress)
        write_json(out / "look.json", look)
        pages = pages_of(look).values()
        write_page(out, f"Corpus {name}", [block for page in pages for block in page])
        return {"documents": look["contents"]["documents"], "steps": len(look["funnel"])}

    title = f"corpus report {name}"
    inputs = dict(chain)
    return at.make(
        Kind.REPORT, f"{name}-corpus", step, config=config, inputs=inputs, version=2, title=title
    )


def read_look(look: Artifact) -> dict[str, Any]:
    """Return what a corpus report is made of."""
    found: dict[str, Any] = json.loads((look.path / "look.json").read_text())
    return found


def show_corpus(at: Stage, name: str, tokens: Artifact) -> Artifact:
    """Look at a finished corpus and show it in the Prefect UI, one artifact for each page."""
    made = make_look(at, name, tokens)
    for key, blocks in pages_of(read_look(made)).items():
        title = f"Corpus {name}: {key}"
        show(f"corpus-{key}", as_markdown(title, blocks, at_most=MOST), title)
    return made


def pages_of(look: Mapping[str, Any]) -> dict[str, list[Block]]:
    """Return the pages of a corpus report by key."""
    return {
        "funnel": funnel_page(look),
        "contents": contents_page(look["contents"]),
        "duplicates": duplicates_page(look),
        "samples": samples_page(look),
    }


def in_short(look: Mapping[str, Any]) -> list[Block]:
    """Return what the report of a whole chain says of its corpus."""
    return [*funnel_page(look)[:2], *contents_page(look["contents"])[:2]]


def share(part: float, whole: float) -> str:
    """Return a part as a percentage."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def funnel_page(look: Mapping[str, Any]) -> list[Block]:
    """Show what came into each step and where it went."""
    steps = look["funnel"]
    rows = [
        [
            f"{step['name']} ({step['unit']})",
            *(f"{step[key]:,}" for key in ("came", "kept", "joined", "dropped", "rejected")),
            f"{step['came'] - step['missing']:,}",
            f"{step['missing']:,} MISSING" if step["missing"] else "yes",
        ]
        for step in steps
    ]
    header = ["step", "in", "kept", "joined", "dropped", "rejected", "out in all", "adds up"]
    added, carried = sum(step["added"] for step in steps), look["carried"]
    note = (
        "In = kept + joined + dropped + rejected; dropped and rejected rows are counted in the "
        f"files. {added:,} ready-made texts came in beside the pages, {carried:,} documents "
        "were carried over from an older corpus."
    )
    losses = [
        [step["name"], reason, f"{n:,}", share(n, step["came"]), share(n, step["dropped"])]
        for step in steps
        for reason, n in sorted(step["reasons"].items(), key=lambda item: -item[1])
    ]
    return [
        Picture("What each step kept", funnel(steps)),
        Shown("Funnel", header, rows, note),
        Shown(
            "Dropped", ["step", "reason", "records", "of all that came", "of all dropped"], losses
        ),
    ]


def contents_page(contents: Mapping[str, Any]) -> list[Block]:
    """Show domains, lengths, languages and charsets."""
    documents, size = contents["documents"], contents["bytes"]
    top = contents["domains"][: len(WEBTEXT)]
    rows = [
        [
            str(place + 1),
            row["domain"],
            f"{row['documents']:,}",
            share(row["documents"], documents),
            f"{row['bytes'] / 1e6:,.2f}",
            share(row["bytes"], size),
            WEBTEXT[place],
        ]
        for place, row in enumerate(top)
    ]
    off = contents["domains_error"]
    exact = f"may be too low by up to {off:,} documents" if off else "are exact"
    header = ["", "domain", "documents", "share", "MB", "share", "WebText's"]
    note = (
        f"{contents['domains_seen']:,} registered domains and text sets; counts {exact}. "
        "Last column: the top 15 that GPT-2's authors published (domains.txt), google first with "
        "1,542,261 documents, huffingtonpost 15th with 186,668."
    )
    lengths = {f"{x['from']:,}": float(x["documents"]) for x in contents["lengths"]}
    return [
        Shown("Top domains", header, rows, note),
        Picture("Length of documents", columns(lengths, "words, from", "documents")),
        lengths_table(contents),
        counted("Languages", "language", contents["languages"], documents),
        counted("Character sets of the pages", "charset", contents["charsets"], documents),
        masked_table(contents["masked"]),
    ]


def lengths_table(contents: Mapping[str, Any]) -> Shown:
    """Show the histogram in numbers."""
    documents = contents["documents"]
    rows = [
        [f"{x['from']:,} to {x['to']:,}", f"{x['documents']:,}", share(x["documents"], documents)]
        for x in contents["lengths"]
    ]
    replaced = contents["replaced"]
    note = (
        f"{documents:,} documents, {contents['words']:,} words, {contents['bytes'] / 1e6:,.1f} MB. "
        f"Characters that no charset explains were replaced in {replaced.get('documents', 0):,} "
        f"of them, {replaced.get('characters', 0):,} in all."
    )
    return Shown("Lengths", ["words", "documents", "share"], rows, note)


def counted(title: str, name: str, counts: Mapping[str, int], whole: int) -> Shown:
    """Show counts, the largest first."""
    rows = [
        [key or "not looked at", f"{n:,}", share(n, whole)]
        for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Shown(title, [name, "documents", "share"], rows)


def masked_table(masked: Mapping[str, int]) -> Shown:
    """Show how much personal data was replaced."""
    rows = [[kind, f"{n:,}"] for kind, n in sorted(masked.items())]
    return Shown("Personal data masked", ["kind", "places"], rows)


def named(document: Mapping[str, Any]) -> list[str]:
    """Return what a document can be known by; ready-made texts have no address."""
    return [document.get("url", ""), document.get("title", "")]


def duplicates_page(look: Mapping[str, Any]) -> list[Block]:
    """Show how many groups of duplicates there are, the largest, and pairs to compare."""
    found = look["duplicates"]
    sizes = sorted(((int(size), n) for size, n in found["sizes"].items()), reverse=False)
    rows = [[f"{size:,}", f"{n:,}", f"{n * (size - 1):,}"] for size, n in sizes[:30]]
    pairs = [
        Quote([title, f"Jaccard {row['jaccard']}", *named(document)], text)
        for reason, samples in look["dropped"]["documents"].items()
        for row in samples
        if "stays" in row
        for title, document, text in (
            (f"{reason}: stays", row["stays"], row["stays"]["text"]),
            (f"{reason}: goes", row, row.get("text", "")),
        )
    ]
    return [
        Shown(
            "Groups of duplicates",
            ["documents in a group", "groups", "documents dropped"],
            rows,
            f"{found['duplicates']:,} documents went for {found['clusters']:,} that stay, "
            f"{found['of_older']:,} of them for documents of the older corpus.",
        ),
        Shown(
            "How alike",
            ["Jaccard from", "pairs", "share"],
            [[k, f"{n:,}", share(n, found["duplicates"])] for k, n in found["jaccard"].items()],
        ),
        Quotes("Largest groups", [_group(group) for group in found["largest"]]),
        Quotes("Pairs to compare", pairs),
    ]


def _group(group: Mapping[str, Any]) -> Quote:
    """Return one group of duplicates: who stays, and some of those that went."""
    name = group["url"] or group["source"] or group["id"]
    lines = [f"{row['jaccard']}  {row['url']}" for row in group["members"]]
    left = group["size"] - 1 - len(lines)
    more = [f"and {left:,} more"] if left else []
    about = [f"{group['size']:,} documents", f"stays: {name}", group["title"]]
    return Quote(about, "\n".join(lines + more))


def samples_page(look: Mapping[str, Any]) -> list[Block]:
    """Show documents that stayed and records that went, for each reason."""
    kept = [
        Quote([row["url"] or row["source"], row["title"], f"{row['words']:,} words"], row["text"])
        for row in look["kept"]
    ]
    blocks: list[Block] = [Quotes("Kept: a random sample", kept)]
    for step, reasons in look["dropped"].items():
        for reason, rows in reasons.items():
            quotes = [_dropped(row) for row in rows]
            blocks.append(Quotes(f"Dropped from {step}: {reason}", quotes))
    return blocks


def _dropped(row: Mapping[str, Any]) -> Quote:
    """Return a dropped record: where it is from, what is known of it, its text if there is any."""
    name = row.get("url") or row.get("file") or row.get("id") or "?"
    known = [f"{key}: {row[key]}" for key in ("title", "detail", "line", "offset") if row.get(key)]
    return Quote([name, *known], row.get("text", ""))
