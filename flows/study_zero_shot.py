"""study zero-shot: GPT-2 in full, and every score against the size of the model.

GPT-2 paper, Table 3, sections 3.3 to 3.8, Figures 1 and 4, section 4. Several sizes of one model
are asked every benchmark whose rows are there; what the paper printed stands beside. A benchmark
is the paper's own set where that is there, else one like it, which the page says in each cell.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.charts import reliability
from flows.evaluate import score
from flows.gpt2_page import Asked, blocks, sweep
from flows.memory import MemoryStep, make_report, page_of
from flows.overlap import make_overlap
from flows.page import Block, Picture, as_markdown
from flows.spread import task_runner
from flows.stage import Stage, stage
from flows.study import Summary, base, finish
from modules import presets
from modules.corpus.overlap import OverlapConfig
from modules.evaluation.config import MemoryConfig
from modules.run import RunConfig, ZeroShotRun
from modules.task import Task, find_split
from registry import artifacts
from registry.artifacts import Artifact

PAGE = 3  # version of the page; raised where it changes
Scored = dict[tuple[str, str], Artifact]
"""(model's fingerprint, task) -> scores"""


@flow(
    name="study-zero-shot",
    flow_run_name="study-zero-shot-{config.name}",
    task_runner=task_runner(),
)
def study_zero_shot(
    config: RunConfig = presets.ZERO_SHOT,
    sizes: tuple[RunConfig, ...] = presets.sizes(presets.ZERO_SHOT),
    checkpoints: tuple[str, ...] = (),
    workers: int = 0,
) -> Summary:
    """Ask models of several sizes every benchmark of GPT-2's paper, beside its own results.

    Args:
        config: The run: its pretraining, and the benchmarks; those without rows are left out.
        sizes: Runs of other sizes; pretrained where they are missing.
        checkpoints: What to ask instead of the runs' models, the one of the tables first.
        workers: Processes that read the corpus for the overlap; 0 means one for each CPU core.

    Returns:
        What the command line prints, and the report's folder.
    """
    with stage("study-zero-shot", config.model_dump(mode="json")) as at:
        data = config.finetune.folder(at.workspace.root)
        chosen, absent = there(config.zero_shot, data)
        models = [artifacts.checkout(at.workspace, name) for name in checkpoints]
        models = models or [base(at, run) for run in (config, *sizes)]
        scored: Scored = {
            (model.fingerprint, task.name): score(
                at, task, model, model.name, config.zero_shot.settings_of(task.name), data=data
            )
            for model in models
            for task in chosen
        }
        asked = [asked_of(model, scored) for model in models]
        memory = memory_of(at, config, models, chosen, scored, data, workers)
        page = [*blocks(asked, absent), *pictures(models[0], scored), *memory_page(memory)]
        inputs = {f"{m[:8]}-{t}".lower(): made for (m, t), made in scored.items()}
        inputs |= {"memory": memory} if memory else {}
        settings = {"page": PAGE, "absent": absent}
        done = finish(at, "zero-shot", models[0], page, tuned={}, inputs=inputs, settings=settings)
        return done | {"markdown": as_markdown("GPT-2 zero-shot", [sweep(asked)])}


def there(run: ZeroShotRun, data: Path) -> tuple[list[Task], list[str]]:
    """Return the benchmarks whose rows are in a folder, and the names of the others.

    Raises:
        FileNotFoundError: there is none.
    """
    found, absent = [], []
    for task in run.chosen():
        splits = {run.settings_of(task.name).split_of(task)} | ({task.examples} - {""})
        try:
            for split in splits:
                find_split(task, data, split)
        except FileNotFoundError:
            absent.append(task.name)
        else:
            found.append(task)
    if not found:
        raise FileNotFoundError(f"{data}: holds no rows of {', '.join(absent)}; `--data FOLDER`")
    return found, absent


def asked_of(model: Artifact, scored: Scored) -> Asked:
    """Return a model's scores, and how large it is."""
    from modules.model.checkpoint import CONFIG, read_config

    own = [made for (name, _), made in scored.items() if name == model.fingerprint]
    size = read_config(json.loads((model.path / CONFIG).read_text())).n_params
    rows = [row for made in own for row in json.loads((made.path / "scores.json").read_text())]
    return Asked(model.name, size, rows)


def pictures(model: Artifact, scored: Scored) -> list[Block]:
    """Return how far the answers to questions can be believed (section 3.8)."""
    found: list[Block] = []
    for (name, task), made in scored.items():
        path = made.path / "items" / f"{task}.reliability.json"
        if name == model.fingerprint and path.exists():
            facts = json.loads(path.read_text())
            title = f"Reliability of {task} ({facts['n']} answers, {model.name})"
            found.append(Picture(title, reliability(facts["bins"])))
    return found


def memory_of(
    at: Stage,
    config: RunConfig,
    models: Sequence[Artifact],
    chosen: Sequence[Task],
    scored: Scored,
    data: Path,
    workers: int,
) -> Artifact | None:
    """Compare the models with the text they learnt from; None: the first one's is not ours."""
    first = models[0]
    if "tokens" not in first.inputs:
        return None
    tokens = artifacts.checkout(at.workspace, first.inputs["tokens"])
    if "documents" not in tokens.inputs:
        return None
    corpus = artifacts.checkout(at.workspace, tokens.inputs["documents"])
    ways = OverlapConfig(tokens=config.corpus.tokens, keep_filter=True)
    table = make_overlap(at, ways, corpus.name, corpus, chosen, workers, data=data)
    alike = [m for m in models if m.inputs.get("tokens") == tokens.fingerprint]
    step = MemoryStep(memory=MemoryConfig(), zero_shot=config.zero_shot)
    mine = {task.name: scored[first.fingerprint, task.name] for task in chosen}
    return make_report(at, step, f"{first.name}-sizes", table, tokens, alike, mine)


def memory_page(memory: Artifact | None) -> list[Block]:
    """Return the blocks of section 4."""
    return list(page_of(json.loads((memory.path / "memory.json").read_text()))) if memory else []
