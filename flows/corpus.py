"""prepare_corpus: dumps -> links -> pages -> text -> clean documents -> tokenizer -> tokens."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.look import show_corpus
from flows.stage import Inputs, Stage, stage
from modules import presets
from modules.files import Progress
from modules.run import CorpusConfig, TokenizerStep
from registry import versions
from registry.artifacts import Artifact
from registry.tables import Kind


@flow(name="prepare_corpus", flow_run_name="corpus-{config.name}", log_prints=False)
def prepare_corpus(config: CorpusConfig = presets.SAMPLE.corpus) -> str:
    """Turn link dumps and stored pages into token shards (GPT-2 paper, section 2.1).

    Args:
        config: Inputs (paths below data/) and the settings of every step.

    Returns:
        The fingerprint of the tokens.
    """
    with stage("prepare_corpus", config.model_dump(mode="json")) as at:
        data = at.workspace.data
        dumps = config.paths(data, "dumps")
        warcs = config.paths(data, "warcs")
        extra = config.paths(data, "extra")
        links = make_links(at, config, dumps)
        pages = make_pages(at, config, links, warcs)
        text = make_text(at, config, pages, warcs)
        documents = make_documents(at, config, text, extra)
        tokenizer = make_tokenizer(at, config, documents)
        tokens = make_tokens(at, config, documents, tokenizer)
        show_corpus(at, config.name, tokens)
        return tokens.fingerprint


def make_links(at: Stage, config: CorpusConfig, dumps: list[Path]) -> Artifact:
    """Collect the links people recommended."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.links import collect_links

        return collect_links(dumps, out, config.links, progress=progress)

    inputs = {"dumps": versions.data_fingerprint(at.workspace, dumps)}
    return at.make(Kind.LINKS, config.name, step, config=config.links, inputs=inputs, version=1)


def make_pages(at: Stage, config: CorpusConfig, links: Artifact, warcs: list[Path]) -> Artifact:
    """Find the stored page of each link."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.pages import select_pages

        root = at.workspace.data
        return select_pages(links.path, warcs, root, out, config.pages, progress=progress)

    inputs: Inputs = {"links": links, "warcs": versions.data_fingerprint(at.workspace, warcs)}
    return at.make(Kind.PAGES, config.name, step, config=config.pages, inputs=inputs, version=1)


def make_text(at: Stage, config: CorpusConfig, pages: Artifact, warcs: list[Path]) -> Artifact:
    """Take the main text out of each page."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.extract import extract_text

        return extract_text(pages.path, at.workspace.data, out, config.extract, progress=progress)

    inputs: Inputs = {"pages": pages, "warcs": versions.data_fingerprint(at.workspace, warcs)}
    name = f"{config.name}-text"
    return at.make(Kind.DOCUMENTS, name, step, config=config.extract, inputs=inputs, version=1)


def make_documents(at: Stage, config: CorpusConfig, text: Artifact, extra: list[Path]) -> Artifact:
    """Filter and de-duplicate; add ready-made texts."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.clean import clean

        return clean(text.path, extra, out, config.clean, progress=progress)

    inputs: Inputs = {"text": text, "extra": versions.data_fingerprint(at.workspace, extra)}
    return at.make(Kind.DOCUMENTS, config.name, step, config=config.clean, inputs=inputs, version=1)


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
    at: Stage, config: CorpusConfig, documents: Artifact, tokenizer: Artifact
) -> Artifact:
    """Encode the documents into shards, split by document."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.entropy import entropies_of
        from modules.corpus.shards import write_tokens

        counts = write_tokens(documents.path, tokenizer.path, out, config.tokens, progress=progress)
        return counts | entropies_of(out)

    inputs = {"documents": documents, "tokenizer": tokenizer}
    settings = config.tokens
    # 2: the n-gram floors are of the test split
    return at.make(Kind.TOKENS, config.name, step, config=settings, inputs=inputs, version=2)
