"""Queries of the catalogue: plain functions, session first."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased, joinedload, load_only

from registry import runs, tables
from registry.files import canonical
from registry.tables import Alias, Lineage, ModelVersion, Score, now

LOWER_IS_BETTER = re.compile(r"perplexity|ppl|loss|bits_per|bpb|bpc|error")


@dataclass(frozen=True)
class Edge:
    """One step of lineage: `child` was made from `parent` (or from data files) as `role`."""

    child: tables.Artifact
    role: str
    parent: tables.Artifact | None
    data: str | None  # fingerprint of files below data/, where there is no parent


# Artifacts


def find_artifact(session: Session, fingerprint: str) -> tables.Artifact | None:
    """Return the artifact of a full fingerprint."""
    query = select(tables.Artifact).where(tables.Artifact.fingerprint == fingerprint)
    return session.scalars(query).one_or_none()


def match_artifacts(
    session: Session, prefix: str, *, kind: str | None = None, name: str | None = None
) -> list[tables.Artifact]:
    """Return the artifacts whose fingerprint begins so, newest first."""
    begins = tables.Artifact.fingerprint
    query = select(tables.Artifact).where(begins.startswith(prefix, autoescape=True))
    if prefix and set(prefix) <= set("0123456789abcdef"):  # LIKE alone would read every row
        query = query.where(begins >= prefix, begins < prefix + "g")
    return list(session.scalars(_narrow(query, kind, name)))


def list_artifacts(
    session: Session, *, kind: str | None = None, name: str | None = None, limit: int | None = 1000
) -> list[tables.Artifact]:
    """Return artifacts, newest first."""
    return list(session.scalars(_narrow(select(tables.Artifact), kind, name).limit(limit)))


def count_artifacts(session: Session) -> int:
    """Count all artifacts."""
    return session.scalar(select(func.count()).select_from(tables.Artifact)) or 0


def _narrow(query: Any, kind: str | None, name: str | None) -> Any:
    """Keep one kind and one name, newest first."""
    if kind is not None:
        query = query.where(tables.Artifact.kind == kind)
    if name is not None:
        query = query.where(tables.Artifact.name == name)
    return query.order_by(tables.Artifact.id.desc())  # not by the clock, which may jump


def add_artifact(
    session: Session, artifact: tables.Artifact, inputs: Mapping[str, str]
) -> tables.Artifact:
    """Add an artifact and its lineage; inputs are role -> fingerprint of an artifact or of data.

    The same fingerprint twice is the same artifact: the first row stays, and is told where the
    bytes lie if they had to be made again.

    Raises:
        LeaseLost: its run was taken for dead.
    """
    runs.hold(session, artifact.run_id)
    if found := find_artifact(session, artifact.fingerprint):
        _replace_bytes(found, artifact)
        return found
    session.add(artifact)
    session.flush()
    for role, fingerprint in sorted(inputs.items()):
        parent = find_artifact(session, fingerprint)
        session.add(
            Lineage(
                child_id=artifact.id,
                role=role,
                parent_id=parent.id if parent else None,
                data=None if parent else fingerprint,
            )
        )
    return artifact


def _replace_bytes(row: tables.Artifact, remade: tables.Artifact) -> None:
    """Point a row at bytes that were made again."""
    row.removed = None
    if row.dvc_md5 == remade.dvc_md5:
        return
    for column in ("counts", "manifest", "size", "n_files", "dvc_md5", "dvc_file"):
        setattr(row, column, getattr(remade, column))
    for column in ("code_version", "git_commit", "data_version"):
        setattr(row, column, getattr(remade, column))


def ancestors(session: Session, fingerprint: str) -> list[Edge]:
    """Return everything an artifact was made from, nearest first; each edge once."""
    start = find_artifact(session, fingerprint)
    edges: list[Edge] = []
    seen: set[int] = set()
    frontier = {start.id} if start else set()
    while frontier:
        seen |= frontier
        step = _edges(session, frontier)
        edges += step
        frontier = {edge.parent.id for edge in step if edge.parent is not None} - seen
    return edges


def children(session: Session, fingerprint: str, kind: str) -> list[tables.Artifact]:
    """Return the artifacts of one kind made directly from an artifact, newest first."""
    parent = aliased(tables.Artifact)
    query = (
        select(tables.Artifact)
        .join(Lineage, Lineage.child_id == tables.Artifact.id)
        .join(parent, Lineage.parent_id == parent.id)
        .where(parent.fingerprint == fingerprint)
    )
    return list(session.scalars(_narrow(query, kind, None)).unique())


def _edges(session: Session, ids: set[int]) -> list[Edge]:
    """Load the edges whose child is one of `ids`."""
    child, parent = aliased(tables.Artifact), aliased(tables.Artifact)
    query = (
        select(Lineage, child, parent)
        .join(child, Lineage.child_id == child.id)
        .outerjoin(parent, Lineage.parent_id == parent.id)
        .where(Lineage.child_id.in_(ids))
        .order_by(Lineage.child_id, Lineage.role)
    )
    return [
        Edge(made, line.role, source, line.data) for line, made, source in session.execute(query)
    ]


# Models


def find_model(session: Session, name: str, version: int) -> ModelVersion | None:
    """Return one version of a model."""
    return session.get(ModelVersion, (name, version))


def find_alias(session: Session, name: str, alias: str) -> ModelVersion | None:
    """Return the version under a model's alias."""
    row = session.get(Alias, (name, alias))
    return None if row is None else find_model(session, name, row.version)


def list_models(
    session: Session, name: str | None = None, *, current: bool = False
) -> list[ModelVersion]:
    """Return model versions by name, newest first; of their artifacts only the names.

    With `current` only each model's newest version and those under an alias.
    """
    artifact = tables.Artifact
    named = load_only(artifact.kind, artifact.name, artifact.fingerprint)  # manifests are large
    query = select(ModelVersion).options(joinedload(ModelVersion.artifact).options(named))
    if name is not None:
        query = query.where(ModelVersion.name == name)
    if current:
        other = aliased(ModelVersion)
        newest = select(func.max(other.version)).where(other.name == ModelVersion.name)
        held = select(Alias).where(
            Alias.name == ModelVersion.name, Alias.version == ModelVersion.version
        )
        query = query.where(or_(ModelVersion.version == newest.scalar_subquery(), held.exists()))
    return list(session.scalars(query.order_by(ModelVersion.name, ModelVersion.version.desc())))


def list_aliases(session: Session, name: str | None = None) -> list[Alias]:
    """Return who holds which alias."""
    query = select(Alias).order_by(Alias.name, Alias.alias)
    return list(session.scalars(query if name is None else query.where(Alias.name == name)))


# Scores


def add_scores(
    session: Session,
    fingerprint: str,
    scores: Iterable[Mapping[str, Any]],
    *,
    run_id: str | None = None,
) -> int:
    """Add an artifact's scores, replacing those of the same task, split, version and protocol.

    A score is {task, metric, value, n, low, high, split, task_version, protocol}.

    Raises:
        ValueError: the artifact is unknown, or a value is not a number.
        LeaseLost: the run was taken for dead.
    """
    runs.hold(session, run_id)
    artifact = find_artifact(session, fingerprint)
    if artifact is None:
        raise ValueError(f"no artifact {fingerprint[:16]} in the catalogue: publish it first")
    n = 0
    for score in scores:
        _put_score(session, artifact.id, score, run_id)
        n += 1
    return n


def _put_score(
    session: Session, artifact_id: int, score: Mapping[str, Any], run_id: str | None
) -> None:
    """Insert or update one score."""
    if math.isnan(score["value"]):
        raise ValueError(f"score {score['task']}/{score['metric']} is not a number")
    key = {
        "artifact_id": artifact_id,
        "task": score["task"],
        "metric": score["metric"],
        "split": score["split"],
        "version": score["task_version"],
        "protocol": canonical(score["protocol"]),
    }
    row = session.scalars(select(Score).filter_by(**key)).one_or_none()
    if row is None:
        row = Score(**key)
        session.add(row)
    row.value, row.n = score["value"], score["n"]
    row.low, row.high = score.get("low"), score.get("high")
    row.run_id, row.created = run_id, now()


def leaderboard(
    session: Session, *, task: str | None = None, fingerprint: str | None = None
) -> list[Score]:
    """Return scores grouped by what may be compared (task, version, split, metric, protocol).

    Within a group the best comes first; metrics like perplexity and loss are better when lower.
    """
    query = select(Score).options(joinedload(Score.artifact))
    if task is not None:
        query = query.where(Score.task == task)
    if fingerprint is not None:
        query = query.join(Score.artifact).where(tables.Artifact.fingerprint == fingerprint)

    def order(score: Score) -> tuple[Any, ...]:
        lower = LOWER_IS_BETTER.search(score.metric) is not None
        group = (score.task, score.version, score.split, score.metric, score.protocol)
        return (*group, score.value if lower else -score.value, score.id)

    return sorted(session.scalars(query), key=order)


def unscored(
    session: Session, kind: str, tasks: Sequence[str], *, limit: int
) -> list[tables.Artifact]:
    """Return the artifacts of a kind that lack a score on any of the tasks, newest first."""
    mine = Score.artifact_id == tables.Artifact.id, Score.task.in_(tasks)
    known = select(func.count(Score.task.distinct())).where(*mine).scalar_subquery()
    query = _narrow(select(tables.Artifact).where(known < len(set(tasks))), kind, None)
    return list(session.scalars(query.limit(limit)))
