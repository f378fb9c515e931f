"""reproduce: the whole chain of a preset, from link dumps to a registered and scored model."""

from typing import Any

from prefect import flow

from flows.charts import holds
from flows.corpus import prepare_corpus
from flows.evaluate import zero_shot
from flows.finetune import finetune
from flows.lineage_picture import show_lineage
from flows.pretrain import pretrain
from flows.promote import promote
from flows.report import make_report, read_tables
from flows.stage import Stage, stage
from modules import presets
from modules.run import RunConfig
from registry import artifacts


@flow(name="reproduce", flow_run_name="{config.name}")
def reproduce(config: RunConfig = presets.SAMPLE) -> dict[str, Any]:
    """Do what the papers did: corpus, pretraining, fine-tuning, zero-shot scores, registry.

    What is there already, from the same inputs, settings and code, is not made again.

    Args:
        config: All settings of the run.

    Returns:
        What the command line prints: tables, the model's name and version, the report's folder.
    """
    with stage("reproduce", config.model_dump(mode="json")) as at:
        name = config.name
        tokens = prepare_corpus(config.corpus)
        checkpoint = pretrain(config.pretrain, name=name, tokens=tokens)
        tuned = finetune(config.finetune, name=name, checkpoint=checkpoint)
        scores = zero_shot(config.zero_shot, name=name, checkpoint=checkpoint)
        model = f"textmill-{name}"
        promoted = promote(model, checkpoint=checkpoint)
        report = make_report(
            at,
            config,
            artifacts.look_up(at.workspace, tokens),
            artifacts.checkout(at.workspace, checkpoint),
            tuned,
            scores,
        )
        show_lineage(at, f"{model}/{promoted['version']}")
        return {
            "tables": [made_table(at), *read_tables(report)],
            "notes": promoted["decision"],
            "model": model,
            "version": promoted["version"],
            "report": str(report.path),
        }


def made_table(at: Stage) -> dict[str, Any]:
    """Return what this run made and what was there already."""
    now = {artifact.fingerprint for artifact in at.made}
    rows = []
    for artifact in {x.fingerprint: x for x in (*at.reused, *at.made)}.values():
        rows.append(
            [
                str(artifact.kind),
                artifact.name,
                artifact.fingerprint[:12],
                holds(artifact.counts),
                f"{artifact.size / 1e6:.1f} MB",
                "made now" if artifact.fingerprint in now else "there already",
            ]
        )
    header = ["kind", "name", "fingerprint", "holds", "size", ""]
    return {"title": "Artifacts", "header": header, "rows": rows, "note": ""}
