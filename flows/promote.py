"""promote: register a checkpoint as a model version; make it champion if its scores say so."""

from statistics import mean
from typing import Any

from prefect import flow

from flows.charts import markdown_table
from flows.stage import Stage, show, stage
from registry import artifacts, models
from registry.artifacts import Artifact

GUARD = "bits_per_byte"  # comparable between models of any vocabulary


@flow(name="promote", flow_run_name="promote-{model}")
def promote(
    model: str = "textmill-sample", checkpoint: str = "checkpoint/sample", force: bool = False
) -> dict[str, Any]:
    """Register a checkpoint under a model's name and compare it with the champion.

    The guard is the mean of bits per byte over the language-modelling sets that both were scored
    on with the same protocol; a first version becomes champion at once.

    Args:
        model: The registered model's name in MLflow.
        checkpoint: What to register: kind/name for the newest, or a fingerprint.
        force: Promote even if the scores are not better.

    Returns:
        {version, champion, decision}.
    """
    with stage("promote", {"model": model, "checkpoint": checkpoint, "force": force}) as at:
        workspace = at.workspace
        challenger = artifacts.checkout(workspace, checkpoint)
        mine = guard_scores(at, challenger.fingerprint)
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
        theirs = guard_scores(at, holder) if holder else {}
        better, why = judge(mine, theirs)
        if champion is None:
            why = "the first version"
        if champion is None or better or force:
            models.promote(
                workspace,
                model,
                version,
                expected=champion,
                reason=why,
            )
            decision = f"{model} version {version} is the new champion: {why}"
        else:
            decision = f"{model} version {version} is registered; version {champion} stays: {why}"
        rows = [(task, mine.get(task, ""), theirs.get(task, "")) for task in sorted(mine | theirs)]
        table = markdown_table(["set", f"version {version}", "champion before"], rows)
        show("promotion", f"# {decision}\n\nBits per byte (lower is better)\n\n{table}", decision)
        now = models.holder(workspace, model)
        return {"version": version, "champion": now, "decision": decision}


def versions_of(at: Stage, model: str) -> dict[str, int]:
    """Return the registered versions of a model by their checkpoint's fingerprint."""
    return {row["fingerprint"]: row["version"] for row in models.list_models(at.workspace, model)}


def headlines(at: Stage, checkpoint: Artifact) -> dict[str, float]:
    """Return the scores that are shown beside a model version."""
    return {f"{x.task}.{x.metric}": x.value for x in at.scores_of(checkpoint.fingerprint)}


def guard_scores(at: Stage, fingerprint: str) -> dict[str, float]:
    """Return the guard metric of a checkpoint per set and protocol."""
    return {
        f"{score.task} {score.split} v{score.version} {score.protocol}": score.value
        for score in at.scores_of(fingerprint)
        if score.metric == GUARD
    }


def judge(mine: dict[str, float], theirs: dict[str, float]) -> tuple[bool, str]:
    """Say whether the challenger is better on the sets that both have, and why."""
    common = sorted(set(mine) & set(theirs))
    if not common:
        return False, "no set was scored for both with the same protocol"
    new, old = mean(mine[x] for x in common), mean(theirs[x] for x in common)
    sign = "<" if new < old else ">="
    return new < old, f"{new:.4f} {sign} {old:.4f} bits per byte over {len(common)} sets"
