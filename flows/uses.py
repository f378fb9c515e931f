"""`textmill uses WHAT`: lineage the other way, from a page, an input file or an artifact down.

A page is looked for in the corpora whose bytes are here, as `textmill why` does for one corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.why import ledger_of, nights_of
from modules.corpus.addresses import canonical_url
from modules.corpus.story import Chapter, tell
from registry import artifacts, catalogue, db, lineage, references
from registry.files import digest
from registry.lineage import Progeny
from registry.tables import Artifact, InputFile, Kind
from registry.workspace import Workspace


@dataclass(frozen=True)
class Corpus:
    """What one corpus has of a page."""

    name: str
    tokens: str  # fingerprint
    holds: bool
    end: str  # in one line, how the page's story ends there; empty where that is not known


@dataclass(frozen=True)
class Uses:
    """What was made from something."""

    what: str
    starts: list[str]  # references of the artifacts that it went into directly
    progeny: Progeny
    files: list[InputFile] = field(default_factory=list)
    corpora: list[Corpus] = field(default_factory=list)


def uses(workspace: Workspace, what: str) -> Uses:
    """Return which artifacts and models were made from something.

    Args:
        workspace: the project.
        what: a page's address; an input file: its path, name or sha256; an artifact or model.

    Raises:
        ValueError: it is none of these.
    """
    if "://" in what:
        return uses_of_page(workspace, what)
    path = Path(what)
    sha256 = digest(path) if path.is_file() else what
    with db.reading(workspace.database_url) as session:
        files = lineage.find_inputs(session, sha256)
        if files:
            starts = lineage.made_from_data(session, {file.data for file in files})
        elif path.is_file():
            raise ValueError(f"{what} (sha256 {sha256[:12]}) went into nothing that is known here")
        else:
            starts = [_named(session, what)]
        found = lineage.progeny(session, starts)
    return Uses(what, [_reference(row) for row in starts], found, files)


def _named(session: Any, what: str) -> Artifact:
    """Return the artifact that is meant, or say what could have been."""
    try:
        return references.find(session, what)
    except ValueError as error:
        raise ValueError(f"{what!r} is no input file's path, name or sha256; {error}") from None


def uses_of_page(workspace: Workspace, address: str) -> Uses:
    """Return the corpora that hold a page, and what was made from them."""
    url = canonical_url(address, escaped=True)
    with db.reading(workspace.database_url) as session:
        rows = catalogue.list_artifacts(session, kind=Kind.TOKENS, limit=None)
        tokens = [row.fingerprint for row in rows]
    corpora = [_corpus(workspace, fingerprint, address) for fingerprint in tokens]
    holding = [corpus.tokens for corpus in corpora if corpus.holds]
    with db.reading(workspace.database_url) as session:
        starts = [references.find(session, _documents(session, x)) for x in holding]
        found = lineage.progeny(session, starts)
    names = list(dict.fromkeys(_reference(row) for row in starts))
    return Uses(url, names, found, corpora=corpora)


def _documents(session: Any, tokens: str) -> str:
    """Return the fingerprint of the documents that tokens were made from."""
    row = catalogue.find_artifact(session, tokens)
    assert row is not None
    found = next(line.parent for line in row.inputs if line.role == "documents")
    assert found is not None, "tokens are made from documents"
    return found.fingerprint


def _corpus(workspace: Workspace, fingerprint: str, address: str) -> Corpus:
    """Say whether a corpus holds a page, reading the files of its steps."""
    tokens = artifacts.look_up(workspace, fingerprint)
    nights = nights_of(workspace, tokens)
    directories = [{role: x.path for role, x in night.items()} for night in nights]
    story = tell(address, directories, ledger=ledger_of(workspace))
    holds = any(x.step == "documents" and x.outcome == "kept" for x in story.chapters)
    end = _where(story.chapters) if holds else story.end
    return Corpus(tokens.name, fingerprint, holds, end)


def _where(chapters: Sequence[Chapter]) -> str:
    """Say in which split of a corpus a document is."""
    last = chapters[-1]
    return last.facts[0] if last.step == "tokens" else "in its documents, not in its tokens"


def _reference(row: Artifact) -> str:
    return f"{row.kind}/{row.name}@{row.fingerprint[:12]}"


def as_json(found: Uses) -> dict[str, Any]:
    """Return it as JSON."""
    return {
        "what": found.what,
        "went_into": found.starts,
        "made_from_it": found.progeny.counts,
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "aliases": aliases,
                "artifact": model.artifact.fingerprint,
            }
            for model, aliases in found.progeny.models
        ],
        "files": [{"path": x.path, "sha256": x.sha256, "size": x.size} for x in found.files],
        "corpora": [vars(corpus) for corpus in found.corpora],
    }
