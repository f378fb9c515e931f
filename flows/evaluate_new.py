"""evaluate_new: every checkpoint that has no scores yet is scored and competes."""

import logging

from prefect import flow

from flows.evaluate import zero_shot
from flows.promote import promote
from flows.stage import stage
from modules import presets
from modules.run import ZeroShotRun
from registry import catalogue
from registry.db import reading
from registry.tables import Kind

logger = logging.getLogger(__name__)


@flow(name="evaluate_new", flow_run_name="evaluate-new")
def evaluate_new(
    config: ZeroShotRun = presets.SAMPLE.zero_shot, newest: int = 20
) -> dict[str, str]:
    """Score checkpoints that lack a score on some task, oldest first; offer each to its model.

    Args:
        config: The tasks, and how they are scored.
        newest: So many of the newest at most; older ones are left as they are.

    Returns:
        Fingerprint -> what `promote` decided.

    Raises:
        ValueError: some could not be scored, after all others were; names each with its reason.
    """
    tasks = [task.name for task in config.chosen()]
    with stage("evaluate_new", {"newest": newest} | config.model_dump(mode="json")) as at:
        with reading(at.workspace.database_url) as session:
            found = catalogue.unscored(session, Kind.CHECKPOINT, tasks, limit=newest)
        decided, failed = {}, []
        for checkpoint in reversed(found):
            try:
                zero_shot(config, name=checkpoint.name, checkpoint=checkpoint.fingerprint)
                result = promote(f"textmill-{checkpoint.name}", checkpoint=checkpoint.fingerprint)
                decided[checkpoint.fingerprint] = str(result["decision"])
            except (ValueError, FileNotFoundError) as error:  # the others have their turn
                logger.warning("%s: %s", checkpoint.name, error)
                failed.append(
                    f"checkpoint/{checkpoint.name}@{checkpoint.fingerprint[:12]}: {error}"
                )
        if failed:
            raise ValueError(f"{len(decided)} scored, {len(failed)} not: {'; '.join(failed)}")
        if not decided:
            logger.info("every checkpoint has its scores")
        return decided
