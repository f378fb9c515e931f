"""The model registry: versions of checkpoints, and who is champion.

The catalogue decides; MLflow's registry is told in the same transaction through the outbox, and
at once if it answers.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry import artifacts, catalogue, db, outbox, projection, runs
from registry.artifacts import Artifact
from registry.files import check_name
from registry.provenance import git_commit, this_user
from registry.tables import Alias, AliasMove, Kind, ModelVersion, Score, now
from registry.versions import data_version
from registry.workspace import Workspace

CHAMPION = "champion"
ROLLBACK = "rollback: "  # begins the reason of such a move


class Conflict(ValueError):
    """Somebody else moved the alias in the meantime; nothing was changed."""


def register(
    ws: Workspace,
    name: str,
    artifact: Artifact,
    run_id: str,
    *,
    tags: Mapping[str, str] | None = None,
    scores: Mapping[str, float] | None = None,
    number: int | None = None,
    asked_by: str | None = None,
) -> int:
    """Make a checkpoint a version of a model and return its number; the same one gets the same.

    Args:
        ws: the workspace.
        name: the model's name, "textmill-<preset>".
        artifact: a published checkpoint or tuned checkpoint.
        run_id: the MLflow run that made it.
        tags: more tags for MLflow's page.
        scores: headline numbers; they become tags "score.<name>".
        number: the version's number elsewhere, taken here too if it is free.
        asked_by: the catalogue's run that registers, if one does.

    Raises:
        ValueError: not a checkpoint, or a bad name.
        LeaseLost: that run was taken for dead.
    """
    check_name(name)
    if artifact.kind not in (Kind.CHECKPOINT, Kind.TUNED):
        raise ValueError(f"{artifact.reference} is no checkpoint: only those become models")
    described = {
        "artifact": artifact.reference,
        "data_version": data_version(ws),
        "git_commit": git_commit(ws.root),
        **{f"score.{key}": f"{value:.6g}" for key, value in (scores or {}).items()},
        **(tags or {}),
    }

    def add(session: Session) -> int:
        runs.hold(session, asked_by)
        row = catalogue.find_artifact(session, artifact.fingerprint)
        if row is None:
            raise ValueError(f"{artifact.reference} is not in the catalogue: publish it first")
        query = select(ModelVersion).filter_by(name=name, artifact_id=row.id)
        if known := session.scalars(query).one_or_none():
            return known.version
        newest = select(func.max(ModelVersion.version)).where(ModelVersion.name == name)
        version = (session.execute(newest).scalar() or 0) + 1
        if number is not None and catalogue.find_model(session, name, number) is None:
            version = number
        session.add(ModelVersion(name=name, version=version, artifact_id=row.id, tags=described))
        payload = {
            "name": name,
            "version": version,
            "fingerprint": artifact.fingerprint,
            "run": run_id,
            "tags": described,
        }
        outbox.enqueue(session, projection.SYSTEM, "register", name, payload)
        return version

    version = db.write(ws.database_url, add)
    projection.replay_outbox(ws, topic=name)
    return version


def promote(
    ws: Workspace,
    name: str,
    version: int,
    *,
    expected: int | None,
    reason: str,
    alias: str = CHAMPION,
    asked_by: str | None = None,
) -> None:
    """Move an alias to a version, if it still stands where the caller saw it.

    The move, its history and the note for MLflow are one transaction. A version that holds the
    alias already keeps it, and the history does not grow.

    Args:
        ws: the workspace.
        name: the model's name.
        version: the new holder.
        expected: the holder that the decision was made against; None: there was none.
        reason: why, for the history.
        alias: which one.
        asked_by: the catalogue's run that decided, if one did.

    Raises:
        Conflict: the alias stands elsewhere by now.
        ValueError: there is no such version.
        LeaseLost: that run was taken for dead.
    """

    def move(session: Session) -> None:
        runs.hold(session, asked_by)
        model = catalogue.find_model(session, name, version)
        if model is None:
            there = [row.version for row in catalogue.list_models(session, name)]
            raise ValueError(f"model {name} has no version {version}; it has {there}")
        row = session.get(Alias, (name, alias), with_for_update=True)
        holder = None if row is None else row.version
        if holder != expected:
            raise Conflict(
                f"{name}@{alias} is version {holder}, not {expected}: somebody moved it in the "
                "meantime, and nothing was changed; compare again with that one"
            )
        if holder != version:
            _move(session, row, model, alias, reason)

    try:
        db.write(ws.database_url, move)
    except DBAPIError as error:
        if not db.lost_a_race(error):
            raise
        raise Conflict(
            f"{name}@{alias} is being moved by many at once, and nothing was changed; compare again"
        ) from None
    projection.replay_outbox(ws, topic=name)


def _move(
    session: Session, row: Alias | None, model: ModelVersion, alias: str, reason: str
) -> None:
    """Write the alias, its history and what MLflow must be told."""
    name, version, previous = model.name, model.version, None if row is None else row.version
    if row is None:
        session.add(Alias(name=name, alias=alias, version=version))
    else:
        row.version, row.updated = version, now()
    session.add(
        AliasMove(
            name=name,
            alias=alias,
            version=version,
            previous=previous,
            reason=reason,
            who=this_user(),
            scores=_known_scores(session, model),
        )
    )
    outbox.enqueue(session, projection.SYSTEM, "alias", name, {"name": name, "alias": alias})


def _known_scores(session: Session, model: ModelVersion) -> dict[str, dict[str, Any]]:
    """Return what the catalogue says of a version's scores at this moment."""
    found = session.scalars(select(Score).where(Score.artifact_id == model.artifact_id))
    return {
        f"{row.task} {row.metric} {row.split} v{row.version} {row.protocol}": {
            "value": row.value,
            "low": row.low,
            "high": row.high,
        }
        for row in found
    }


def rollback(
    ws: Workspace, name: str, *, reason: str, to: int | None = None, alias: str = CHAMPION
) -> int:
    """Give an alias back to the holder before this one (or to version `to`), and return that.

    Raises:
        ValueError: there was none before, or it is the holder already.
        Conflict: the alias was moved in the meantime.
    """
    held: list[int] = []  # who held it and was not rolled back
    for move in history(ws, name, alias=alias):
        if move.reason.startswith(ROLLBACK) and move.version in held:
            del held[len(held) - held[::-1].index(move.version) :]
        else:
            held.append(move.version)
    if len(held) < (2 if to is None else 1):
        raise ValueError(f"{name}@{alias} has no earlier version to go back to")
    current, before = held[-1], held[-2] if to is None else to
    if current == before:
        raise ValueError(f"{name}@{alias} is version {before} already: nothing to roll back")
    promote(ws, name, before, expected=current, reason=ROLLBACK + reason, alias=alias)
    return before


def holder(ws: Workspace, name: str, alias: str = CHAMPION) -> int | None:
    """Return the version under an alias, None if there is none."""
    with db.reading(ws.database_url) as session:
        row = catalogue.find_alias(session, name, alias)
        return None if row is None else row.version


def history(ws: Workspace, name: str, *, alias: str | None = CHAMPION) -> list[AliasMove]:
    """Return every move of an alias (None: of all aliases), oldest first."""
    query = select(AliasMove).where(AliasMove.name == name).order_by(AliasMove.id)
    if alias is not None:
        query = query.where(AliasMove.alias == alias)
    with db.reading(ws.database_url) as session:
        return list(session.scalars(query))


def list_models(
    ws: Workspace, name: str | None = None, *, current: bool = False
) -> list[dict[str, Any]]:
    """Return model versions, newest first, with their aliases and tags.

    With `current` only each model's newest version and those under an alias.
    """
    with db.reading(ws.database_url) as session:
        aliases: dict[tuple[str, int], list[str]] = {}
        for row in catalogue.list_aliases(session, name):
            aliases.setdefault((row.name, row.version), []).append(row.alias)
        return [
            {
                "name": model.name,
                "version": model.version,
                "aliases": aliases.get((model.name, model.version), []),
                "artifact": f"{model.artifact.kind}/{model.artifact.name}"
                f"@{model.artifact.fingerprint[: artifacts.DIGITS]}",
                "fingerprint": model.artifact.fingerprint,
                "mlflow_version": model.mlflow_version,
                "created": model.created,
                "tags": model.tags,
            }
            for model in catalogue.list_models(session, name, current=current)
        ]


def resolve(ws: Workspace, reference: str) -> Artifact:
    """Return what a reference like "textmill-sample@champion" means, touching no bytes."""
    return artifacts.look_up(ws, reference)
