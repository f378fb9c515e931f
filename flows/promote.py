"""promote: register a checkpoint as a model version; make it champion if its scores say so."""

import json
import logging
from statistics import mean
from typing import Any

from prefect import flow

from flows.charts import markdown_table
from flows.lineage_picture import show_lineage
from flows.stage import Stage, show, stage
from registry import artifacts, models
from registry.artifacts import Artifact
from registry.tables import Kind

logger = logging.getLogger(__name__)

GUARD = "bits_per_byte"  # comparable between models of any vocabulary
CHALLENGER = "challenger"  # alias of the newest version that did not become champion
TRIES = 5  # comparisons again after somebody else moved the champion


@flow(name="promote", flow_run_name="promote-{model}")
def promote(
    model: str = "textmill-sample", checkpoint: str = "checkpoint/sample", force: bool = False
) -> dict[str, Any]:
    """Register a checkpoint under a model's name and compare it with the champion.

    The guard is the mean of bits per byte over the language-modelling sets that both were scored
    on with the same protocol; of tuned checkpoints, the headline score on the whole validation
    split. A first version becomes champion at once.

    Args:
        model: The registered model's name in MLflow.
        checkpoint: What to register: kind/name for the newest, or a fingerprint.
        force: Promote even if the scores are not better.

    Returns:
        {version, champion, decision}.
    """
    with stage("promote", {"model": model, "checkpoint": checkpoint, "force": force}) as at:
        made = decide(at, model, artifacts.checkout(at.workspace, checkpoint), force=force)
        show_lineage(at, f"{model}/{made['version']}", attach=True)
        return made


def decide(at: Stage, model: str, challenger: Artifact, *, force: bool = False) -> dict[str, Any]:
    """Register a checkpoint; make it champion if nobody is, if it is better, or by force.

    Raises:
        Conflict: the champion changed in the meantime; compare again.
    """
    workspace = at.workspace
    champion = models.holder(workspace, model)
    known = versions_of(at, model)
    version = known.get(challenger.fingerprint)
    if version is None:
        version = models.register(
            workspace, model, challenger, at.mlflow_run, scores=headlines(at, challenger)
        )
    if champion == version:
        decision = f"{model} version {version} is the champion already"
        return {"version": version, "champion": version, "decision": decision}
    holder = next((x for x, number in known.items() if number == champion), None)
    mine = guard_scores(at, challenger)
    theirs = guard_scores(at, artifacts.checkout(workspace, holder)) if holder else {}
    lower = challenger.kind == Kind.CHECKPOINT
    better, why = judge(mine, theirs, lower=lower)
    if champion is None:
        why = "the first version"
    if champion is None or better or force:
        models.promote(workspace, model, version, expected=champion, reason=why)
        decision = f"{model} version {version} is the new champion: {why}"
    else:
        decision = f"{model} version {version} is registered; version {champion} stays: {why}"
        name_challenger(at, model, version, why)
    rows = [(task, mine.get(task, ""), theirs.get(task, "")) for task in sorted(mine | theirs)]
    table = markdown_table(["set", f"version {version}", "champion before"], rows)
    what = "Bits per byte (lower is better)" if lower else "Validation score (higher is better)"
    show("promotion", f"# {decision}\n\n{what}\n\n{table}", decision)
    now = models.holder(workspace, model)
    return {"version": version, "champion": now, "decision": decision}


def name_challenger(at: Stage, model: str, version: int, why: str) -> None:
    """Give the alias challenger to a version that did not become champion."""
    before = models.holder(at.workspace, model, CHALLENGER)
    if before != version:
        models.promote(at.workspace, model, version, expected=before, reason=why, alias=CHALLENGER)


def register_tuned(at: Stage, model: str, tuned: Artifact) -> str:
    """Register a tuned checkpoint beside its earlier versions; return what was decided."""
    for _ in range(TRIES):
        try:
            return str(decide(at, model, tuned)["decision"])
        except models.Conflict as error:  # another flow was faster: compare with its champion
            logger.info("%s", error)
    return str(decide(at, model, tuned)["decision"])


def versions_of(at: Stage, model: str) -> dict[str, int]:
    """Return the registered versions of a model by their checkpoint's fingerprint."""
    return {row["fingerprint"]: row["version"] for row in models.list_models(at.workspace, model)}


def headlines(at: Stage, checkpoint: Artifact) -> dict[str, float]:
    """Return the scores that are shown beside a model version."""
    return {f"{x.task}.{x.metric}": x.value for x in at.scores_of(checkpoint.fingerprint)}


def guard_scores(at: Stage, artifact: Artifact) -> dict[str, float]:
    """Return what a checkpoint is judged by, per set and protocol.

    Of a tuned one: the headline on the whole validation split, of the same rows only.
    """
    if artifact.kind == Kind.TUNED:
        path = artifact.path / "validation.json"
        if not path.exists():
            return {}
        score = json.loads(path.read_text())[0]
        rows = artifact.inputs.get("task", "")[:12]
        return {
            f"{score['task']} {score['metric']} v{score['task_version']} rows {rows}": score[
                "value"
            ]
        }
    return {
        f"{score.task} {score.split} v{score.version} {score.protocol}": score.value
        for score in at.scores_of(artifact.fingerprint)
        if score.metric == GUARD
    }


def judge(
    mine: dict[str, float], theirs: dict[str, float], *, lower: bool = True
) -> tuple[bool, str]:
    """Say whether the challenger is better on the sets that both have, and why."""
    common = sorted(set(mine) & set(theirs))
    if not common:
        return False, "no set was scored for both with the same protocol"
    new, old = mean(mine[x] for x in common), mean(theirs[x] for x in common)
    sign = "<" if new < old else ">" if new > old else "="
    unit = f"bits per byte over {len(common)} sets" if lower else "on the validation split"
    return (new < old if lower else new > old), f"{new:.4f} {sign} {old:.4f} {unit}"
