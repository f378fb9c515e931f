"""prepare_corpus: dumps -> links -> pages -> text -> clean documents -> tokenizer -> tokens."""

import shutil
from pathlib import Path
from typing import Any

from prefect import flow

from flows.look import show_corpus
from flows.spread import spread, task_runner
from flows.stage import Inputs, Stage, stage
from modules import presets, tasks
from modules.files import Progress
from modules.parallel import Spread
from modules.run import CorpusConfig, TokenizerStep
from registry import artifacts, versions
from registry.artifacts import Artifact
from registry.tables import Kind


@flow(
    name="prepare_corpus",
    flow_run_name="corpus-{config.name}",
    task_runner=task_runner(),
    log_prints=False,
)
def prepare_corpus(config: CorpusConfig = presets.SAMPLE.corpus) -> str:
    """Turn link dumps and stored pages into token shards (GPT-2 paper, section 2.1).

    Args:
        config: Inputs (paths below data/) and the settings of every step.

    Returns:
        The fingerprint of the tokens.
    """
    with (
        stage("prepare_corpus", config.model_dump(mode="json")) as at,
        spread(config.workers) as workers,
    ):
        warcs = config.paths(at.workspace.data, "warcs")
        links = make_links(at, config, workers)
        pages = make_pages(at, config, workers, links, warcs)
        text = make_text(at, config, workers, pages, warcs)
        documents = make_documents(at, config, workers, text)
        given = config.use_tokenizer
        tokenizer = (
            artifacts.checkout(at.workspace, given)
            if given
            else make_tokenizer(at, config, documents)
        )
        tokens = make_tokens(at, config, workers, documents, tokenizer)
        show_corpus(at, config.name, tokens)
        return tokens.fingerprint


def make_links(at: Stage, config: CorpusConfig, workers: Spread) -> Artifact:
    """Collect the links people recommended."""
    dumps = config.paths(at.workspace.data, "dumps")

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.links import collect_links

        return collect_links(dumps, out, config.links, spread=workers, progress=progress)

    inputs = {"dumps": versions.data_fingerprint(at.workspace, dumps)}
    return at.make(Kind.LINKS, config.name, step, config=config.links, inputs=inputs, version=2)


def make_pages(
    at: Stage, config: CorpusConfig, workers: Spread, links: Artifact, warcs: list[Path]
) -> Artifact:
    """Find the stored page of each link."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.pages import select_pages

        root = at.workspace.data
        return select_pages(
            links.path, warcs, root, out, config.pages, spread=workers, progress=progress
        )

    inputs: Inputs = {"links": links, "warcs": versions.data_fingerprint(at.workspace, warcs)}
    return at.make(Kind.PAGES, config.name, step, config=config.pages, inputs=inputs, version=2)


def make_text(
    at: Stage, config: CorpusConfig, workers: Spread, pages: Artifact, warcs: list[Path]
) -> Artifact:
    """Take the main text out of each page: of WARC files below data/, or of fetched ones (none)."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.extract import extract_text

        root = at.workspace.data if warcs else pages.path
        return extract_text(
            pages.path, root, out, config.extract, spread=workers, progress=progress
        )

    inputs: Inputs = {"pages": pages}
    if warcs:
        inputs |= {"warcs": versions.data_fingerprint(at.workspace, warcs)}
    name = f"{config.name}-text"
    return at.make(Kind.DOCUMENTS, name, step, config=config.extract, inputs=inputs, version=2)


def make_documents(
    at: Stage,
    config: CorpusConfig,
    workers: Spread,
    text: Artifact,
    base: Artifact | None = None,
) -> Artifact:
    """Filter and de-duplicate; add ready-made texts, or grow the corpus `base`, which has them."""
    data = at.workspace.data
    files = {what: config.paths(data, what) for what in ("extra", "wikipedia")}
    files["evaluation"] = config.evaluation_files(data)
    extra = [] if base else files.pop("extra")

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.clean import clean
        from modules.corpus.references import write_references

        chosen = [tasks.get(name) for name in config.evaluation]
        scratch = out / "references.tmp"
        scratch.mkdir(exist_ok=True)
        counts = clean(
            text.path,
            extra,
            out,
            config.clean,
            base=base.path if base else None,
            known=write_references(
                scratch, evaluation=chosen, data=data, wikipedia=files["wikipedia"]
            ),
            spread=workers,
            progress=progress,
        )
        shutil.rmtree(scratch)
        return counts

    inputs: Inputs = {"text": text}
    inputs |= {"base": base} if base else {"extra": versions.data_fingerprint(at.workspace, extra)}
    for what in ("wikipedia", "evaluation"):
        if files[what]:
            inputs |= {what: versions.data_fingerprint(at.workspace, files[what])}
    return at.make(Kind.DOCUMENTS, config.name, step, config=config.clean, inputs=inputs, version=2)


def make_tokenizer(at: Stage, config: CorpusConfig, documents: Artifact) -> Artifact:
    """Learn byte-level BPE from the training documents."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.shards import training_texts
        from modules.tokenizer import train

        texts = training_texts(documents.path, config.tokens)
        return train(texts, out, config.tokenizer, progress=progress)

    settings = TokenizerStep(tokenizer=config.tokenizer, tokens=config.tokens)
    inputs = {"documents": documents}
    return at.make(Kind.TOKENIZER, config.name, step, config=settings, inputs=inputs, version=1)


def make_tokens(
    at: Stage,
    config: CorpusConfig,
    workers: Spread,
    documents: Artifact,
    tokenizer: Artifact,
    base: Artifact | None = None,
) -> Artifact:
    """Encode the documents into shards, split by document; those of `base` are carried over."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.entropy import entropies_of
        from modules.corpus.shards import write_tokens

        older = base.path if base else None
        counts = write_tokens(
            documents.path,
            tokenizer.path,
            out,
            config.tokens,
            base=older,
            spread=workers,
            progress=progress,
        )
        return counts | entropies_of(out)

    inputs: Inputs = {"documents": documents, "tokenizer": tokenizer}
    if base:
        inputs |= {"base": base}
    settings = config.tokens
    # 4: the spans say each document's source
    return at.make(Kind.TOKENS, config.name, step, config=settings, inputs=inputs, version=4)
