"""Lineage, both ways: what a thing was made from, and what was made from it.

Upwards a chain has tens of artifacts, which are loaded whole. Downwards it may be all that there
is, so the database walks and counts, and only what is shown is loaded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, joinedload

from registry import catalogue
from registry.catalogue import Edge
from registry.tables import Alias, Artifact, InputFile, Lineage, ModelVersion, Run


@dataclass(frozen=True)
class Ancestry:
    """Everything an artifact was made from, with the runs that made it and the input files."""

    root: Artifact
    edges: list[Edge]  # nearest first
    runs: dict[str, Run]
    files: dict[str, list[InputFile]]  # by the fingerprint they have together
    models: list[ModelVersion]  # of the root

    @property
    def artifacts(self) -> list[Artifact]:
        """The root and what it was made from, each once, nearest first."""
        parents = (edge.parent for edge in self.edges if edge.parent is not None)
        return list({x.id: x for x in (self.root, *parents)}.values())


@dataclass(frozen=True)
class Progeny:
    """What was made from some artifacts: in numbers, and the models among it."""

    counts: dict[str, int]  # kind -> how many
    models: list[tuple[ModelVersion, list[str]]]  # by name, newest first, with their aliases


def ancestry(session: Session, root: Artifact) -> Ancestry:
    """Return everything an artifact was made from."""
    edges = catalogue.ancestors(session, root.fingerprint)
    made = {root.run_id, *(edge.parent.run_id for edge in edges if edge.parent)}
    data = {edge.data for edge in edges if edge.data}
    return Ancestry(
        root,
        edges,
        {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(made - {None})))},
        {fingerprint: input_files(session, fingerprint) for fingerprint in sorted(data)},
        list(session.scalars(select(ModelVersion).where(ModelVersion.artifact_id == root.id))),
    )


def progeny(session: Session, starts: Iterable[Artifact]) -> Progeny:
    """Return what was made from artifacts, themselves included."""
    below = _below([artifact.id for artifact in starts])
    kinds = (
        select(Artifact.kind, func.count())
        .join_from(below, Artifact, Artifact.id == below.c.id)
        .group_by(Artifact.kind)
        .order_by(func.min(Artifact.id))
    )
    models = (
        select(ModelVersion)
        .join_from(below, ModelVersion, ModelVersion.artifact_id == below.c.id)
        .options(joinedload(ModelVersion.artifact).load_only(Artifact.fingerprint))
        .order_by(ModelVersion.name, ModelVersion.version.desc())
    )
    aliases: dict[tuple[str, int], list[str]] = {}
    for row in session.scalars(select(Alias).order_by(Alias.alias)):
        aliases.setdefault((row.name, row.version), []).append(row.alias)
    found = [(x, aliases.get((x.name, x.version), [])) for x in session.scalars(models)]
    return Progeny(dict(session.execute(kinds).tuples().all()), found)


def _below(ids: list[int]) -> Any:
    """Return the ids of artifacts and of all that was made from them, as a query."""
    start = select(Artifact.id.label("id")).where(Artifact.id.in_(ids))
    walk = start.cte("below", recursive=True)
    return walk.union(select(Lineage.child_id).where(Lineage.parent_id == walk.c.id))


def children(session: Session, artifact: Artifact, limit: int) -> list[Artifact]:
    """Return what was made directly from an artifact, newest first."""
    query = (
        select(Artifact)
        .join(Lineage, Lineage.child_id == Artifact.id)
        .where(Lineage.parent_id == artifact.id)
        .order_by(Artifact.id.desc())
    )
    return list(session.scalars(query.limit(limit)).unique())


# Input files


def note_inputs(session: Session, data: str, files: Mapping[str, tuple[str, int]]) -> None:
    """Record which files a fingerprint of input data stands for: path -> (sha256, bytes)."""
    for path, (sha256, size) in files.items():
        name = path.rpartition("/")[2]
        session.merge(InputFile(data=data, path=path, name=name, sha256=sha256, size=size))


def knows_inputs(session: Session, data: str) -> bool:
    """Say whether the files of a fingerprint are recorded."""
    return session.scalars(select(InputFile.path).filter_by(data=data).limit(1)).first() is not None


def input_files(session: Session, data: str) -> list[InputFile]:
    """Return the files that a fingerprint of input data stands for."""
    return list(session.scalars(select(InputFile).filter_by(data=data).order_by(InputFile.path)))


def find_inputs(session: Session, text: str) -> list[InputFile]:
    """Return input files by sha256, by their path below the root, by their name, or by the
    fingerprint that they have together."""
    name = text.rpartition("/")[2]
    same: ColumnElement[bool] = or_(
        InputFile.sha256 == text, InputFile.data == text, InputFile.name == name
    )
    found = session.scalars(select(InputFile).where(same).order_by(InputFile.path))
    return [x for x in found if text in (x.sha256, x.data, x.name, x.path)]


def made_from_data(session: Session, data: Iterable[str]) -> list[Artifact]:
    """Return the artifacts made directly from input data, oldest first."""
    query = (
        select(Artifact)
        .join(Lineage, Lineage.child_id == Artifact.id)
        .where(Lineage.data.in_(list(data)))
        .order_by(Artifact.id)
    )
    return list(session.scalars(query).unique())
