"""promote: register a checkpoint as a model version; make it champion if its scores say so."""

import logging
from typing import Any

from prefect import flow

from flows.charts import markdown_table
from flows.guard import measured
from flows.lineage_picture import show_lineage
from flows.stage import Stage, show, stage
from modules.evaluation.promotion import HEADER, GuardConfig, Judgement, judge, rows_of
from registry import artifacts, catalogue, models
from registry.artifacts import Artifact
from registry.tables import Kind

logger = logging.getLogger(__name__)

CHALLENGER = "challenger"  # alias of the newest version that did not become champion
FIRST = Judgement(True, "the first version")
TRIES = 5  # comparisons again after somebody else moved the champion


@flow(name="promote", flow_run_name="promote-{model}")
def promote(
    model: str = "textmill-sample",
    checkpoint: str = "checkpoint/sample",
    force: bool = False,
    guard: GuardConfig = GuardConfig(),  # noqa: B008 - frozen; the form in the UI
) -> dict[str, Any]:
    """Register a checkpoint under a model's name and compare it with the champion.

    Each set that both were scored on with the same protocol gives a difference with its interval;
    the guard says what they must be. A first version becomes champion at once.

    Args:
        model: The registered model's name in MLflow.
        checkpoint: What to register: kind/name for the newest, or a fingerprint.
        force: Promote even if the scores are not better.
        guard: The sets and the score that decide, and how.

    Returns:
        {version, champion, decision}.
    """
    config = {"model": model, "checkpoint": checkpoint, "force": force, "guard": guard.model_dump()}
    with stage("promote", config) as at:
        found = artifacts.checkout(at.workspace, checkpoint)
        made = decide(at, model, found, force=force, guard=guard)
        show_lineage(at, f"{model}/{made['version']}", attach=True)
        return made


def decide(
    at: Stage,
    model: str,
    challenger: Artifact,
    *,
    force: bool = False,
    guard: GuardConfig | None = None,
) -> dict[str, Any]:
    """Register a checkpoint; make it champion if nobody is, if it is better, or by force.

    Raises:
        Conflict: the champion changed in the meantime; compare again.
    """
    workspace, guard = at.workspace, guard or GuardConfig()
    champion = models.holder(workspace, model)
    known = versions_of(at, model)
    version = known.get(challenger.fingerprint)
    if version is None:
        version = models.register(
            workspace,
            model,
            challenger,
            at.mlflow_run,
            scores=headlines(at, challenger),
            asked_by=at.run_id,
        )
    if champion == version:
        decision = f"{model} version {version} is the champion already"
        return {"version": version, "champion": version, "decision": decision}
    holder = next((x for x, number in known.items() if number == champion), None)
    found = compare(at, challenger, holder, guard) if holder else FIRST
    if found.promote or force:
        why = found.why if found.promote else f"by force; {found.why}"
        models.promote(workspace, model, version, expected=champion, reason=why, asked_by=at.run_id)
        decision = f"{model} version {version} is the new champion: {why}"
    else:
        decision = f"{model} version {version} is registered; version {champion} stays: {found.why}"
        name_challenger(at, model, version, found.why)
    show_decision(decision, found, guard)
    now = models.holder(workspace, model)
    return {"version": version, "champion": now, "decision": decision}


def compare(at: Stage, challenger: Artifact, holder: str, guard: GuardConfig) -> Judgement:
    """Judge a challenger by what it and the champion's checkpoint were scored on."""
    tuned = challenger.kind == Kind.TUNED
    mine = measured(at, challenger, guard.metric)
    theirs = measured(at, artifacts.checkout(at.workspace, holder), guard.metric)
    lower = not tuned and catalogue.LOWER_IS_BETTER.search(guard.metric) is not None
    unit = "on the validation split" if tuned else guard.metric.replace("_", " ")
    return judge(mine, theirs, guard, lower_is_better=lower, unit=unit)


def show_decision(decision: str, found: Judgement, guard: GuardConfig) -> None:
    """Show the decision and what it was made on in the Prefect UI."""
    lower = bool(found.sets) and found.sets[0].lower_is_better
    better = "lower" if lower else "higher"
    note = f"Policy: {guard.policy}; {better} is better; differences are challenger - champion."
    table = markdown_table(HEADER, rows_of(found.sets))
    show("promotion", f"# {decision}\n\n{note}\n\n{table}", decision)


def name_challenger(at: Stage, model: str, version: int, why: str) -> None:
    """Give the alias challenger to a version that did not become champion."""
    before = models.holder(at.workspace, model, CHALLENGER)
    if before != version:
        models.promote(
            at.workspace,
            model,
            version,
            expected=before,
            reason=why,
            alias=CHALLENGER,
            asked_by=at.run_id,
        )


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
