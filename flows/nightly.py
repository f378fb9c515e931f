"""nightly: grow a corpus by what is new, and by nothing else.

Links of new dumps go into the ledger, which knows every address once. What was not tried yet, or
is due for another try, becomes a batch; its pages are fetched (or found in WARC files), and their
texts join the newest corpus of the name: compared with all that is in it, behind its shards, which
stay as they are. The batch is closed last, so the next run continues one that was killed anywhere.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows.corpus import make_documents, make_links, make_text, make_tokenizer, make_tokens
from flows.look import show_corpus
from flows.spread import spread, task_runner
from flows.stage import Inputs, Stage, stage
from modules import presets
from modules.files import Progress, read_jsonl
from modules.parallel import Spread
from modules.run import CorpusConfig, NightlyConfig
from registry import artifacts, catalogue, ledger, versions
from registry.artifacts import Artifact
from registry.db import reading
from registry.ledger import Batch
from registry.tables import Kind

logger = logging.getLogger(__name__)


@flow(name="nightly", flow_run_name="nightly-{config.corpus.name}", task_runner=task_runner())
def nightly(config: NightlyConfig = presets.NIGHTS["sample"]) -> str:
    """Get the pages of links that are new or due, and add their texts to a corpus.

    Args:
        config: The new dumps, how pages are got, and the settings of every step.

    Returns:
        The fingerprint of the corpus' tokens; that of the old ones if nothing was due.

    Raises:
        ValueError: nothing was due, and there is no older corpus of this name either.
    """
    corpus = config.corpus
    values = config.model_dump(mode="json") | {"name": corpus.name}
    with stage("nightly", values) as at, spread(corpus.workers) as workers:
        database = at.workspace.database_url
        warcs = [] if config.fetch else corpus.paths(at.workspace.data, "warcs")
        links = make_links(at, corpus, workers)
        rows = read_jsonl(links.path / "links.jsonl.zst")
        at.log(noted("links", ledger.add_links(database, rows, datetime.now(UTC))))
        batch = ledger.open_batch(database, corpus.name, datetime.now(UTC), config.limit)
        if batch is None:
            logger.info("%s: no link is new or due; nothing is made", corpus.name)
            return artifacts.look_up(at.workspace, f"{Kind.TOKENS}/{corpus.name}").fingerprint
        pages = make_batch_pages(at, config, workers, batch, links, warcs)
        tokens = grow(at, corpus, workers, pages, warcs)
        outcomes = read_jsonl(pages.path / "outcomes.jsonl.zst")
        closed = ledger.close_batch(
            database, batch.id, outcomes, datetime.now(UTC), pages=pages.fingerprint
        )
        at.log(noted("batch", closed))
        show_corpus(at, corpus.name, tokens)
        return tokens.fingerprint


def noted(what: str, counts: dict[str, int]) -> dict[str, float]:
    """Say what the ledger counted; return it as metrics."""
    logger.info("%s: %s", what, ", ".join(f"{n:,} {name}" for name, n in counts.items() if n))
    return {f"{what}/{name}": float(n) for name, n in counts.items()}


def make_batch_pages(
    at: Stage,
    config: NightlyConfig,
    workers: Spread,
    batch: Batch,
    links: Artifact,
    warcs: list[Path],
) -> Artifact:
    """Fetch the pages of a batch of links, or find them in WARC files."""
    corpus, address = config.corpus, at.workspace.database_url

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        wanted = ledger.batch_links(address, batch.id)
        if config.fetch:
            from modules.corpus.fetch import fetch_pages

            return fetch_pages(wanted, out, config.fetch, progress=progress)
        from modules.corpus.pages import select_pages

        return select_pages(
            wanted,
            warcs,
            at.workspace.data,
            out,
            corpus.pages,
            spread=workers,
            progress=progress,
        )

    inputs: Inputs = {"links": links, "batch": batch.digest}
    if warcs:
        inputs |= {"warcs": versions.data_fingerprint(at.workspace, warcs)}
    settings = config.fetch or corpus.pages
    return at.make(Kind.PAGES, corpus.name, step, config=settings, inputs=inputs, version=2)


def grow(
    at: Stage, corpus: CorpusConfig, workers: Spread, pages: Artifact, warcs: list[Path]
) -> Artifact:
    """Add the texts of pages to the newest corpus of the name; return all its tokens."""
    text = make_text(at, corpus, workers, pages, warcs)
    old = older(at, corpus.name, text)
    documents = make_documents(at, corpus, workers, text, base=old[0] if old else None)
    if old is None:
        tokenizer = make_tokenizer(at, corpus, documents)
        return make_tokens(at, corpus, workers, documents, tokenizer)
    tokenizer = artifacts.checkout(at.workspace, old[1].inputs["tokenizer"])
    return make_tokens(at, corpus, workers, documents, tokenizer, base=old[1])


def older(at: Stage, name: str, text: Artifact) -> tuple[Artifact, Artifact] | None:
    """Return the newest documents of a name, and their tokens, that this text is not yet part of.

    So a run that was killed after it had made its documents finds the same base again.
    """
    with reading(at.workspace.database_url) as session:
        found = catalogue.list_artifacts(session, kind=Kind.TOKENS, name=name)
        fingerprints = [row.fingerprint for row in found]
    for fingerprint in fingerprints:
        tokens = artifacts.look_up(at.workspace, fingerprint)
        documents = artifacts.look_up(at.workspace, tokens.inputs["documents"])
        if documents.inputs["text"] != text.fingerprint:
            return (
                artifacts.checkout(at.workspace, documents.fingerprint),
                artifacts.checkout(at.workspace, fingerprint),
            )
    return None
