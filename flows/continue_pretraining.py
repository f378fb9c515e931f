"""continue_pretraining: the champion goes on with the newest tokens of its corpus."""

import logging
from typing import Any

from prefect import flow

from flows.evaluate import zero_shot
from flows.pretrain import pretrain
from flows.promote import promote
from flows.stage import stage
from modules import presets
from modules.run import ContinueConfig
from registry import artifacts, models

logger = logging.getLogger(__name__)


@flow(name="continue_pretraining", flow_run_name="continue-{config.name}")
def continue_pretraining(config: ContinueConfig = presets.SAMPLE_CONTINUED) -> dict[str, Any]:
    """Train the champion further on tokens it has not seen, score it, let it compete.

    The new checkpoint begins with the champion's weights and a new optimizer; it is scored on the
    same sets and becomes champion if the guard of `promote` says so. Nothing is done where the
    champion was made from the newest tokens already.

    Args:
        config: Which model, which corpus, for how long and how it is scored.

    Returns:
        {decision, and of a new one: checkpoint, version, champion}.

    Raises:
        ValueError: the model has no champion yet, or speaks another vocabulary than the tokens.
    """
    with stage("continue", config.model_dump(mode="json")) as at:
        model = f"textmill-{config.name}"
        if models.holder(at.workspace, model) is None:
            raise ValueError(f"{model} has no champion yet: textmill run {config.name}")
        champion = artifacts.checkout(at.workspace, f"{model}@champion")
        tokens = artifacts.look_up(at.workspace, f"tokens/{config.corpus or config.name}")
        if tokens.fingerprint in champion.inputs.values():
            decision = f"the champion {champion.fingerprint[:12]} has read the newest tokens"
            logger.info("%s; nothing is made", decision)
            return {"decision": decision}
        from modules.model.checkpoint import read_config

        same = read_config(champion.config["model"])
        made = pretrain(
            config.pretrain.but(model=same),
            name=config.name,
            tokens=tokens.fingerprint,
            base=champion.fingerprint,
        )
        zero_shot(config.zero_shot, name=config.name, checkpoint=made)
        return promote(model, checkpoint=made) | {"checkpoint": made}
