"""`textmill reproduce RUN`: make an artifact again from what is recorded, and compare every byte.

Inputs are checked out by the fingerprints in the lineage, also where newer ones exist; settings
come from the artifact and the run that made it. The work is done in .textmill/reproduced/, so
nothing that is there is touched, and goes on there after a kill.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.cells import read_scores
from flows.corpus import (
    make_documents,
    make_links,
    make_pages,
    make_text,
    make_tokenizer,
    make_tokens,
)
from flows.evaluate import score
from flows.look import make_look
from flows.pretrain import make_checkpoint
from flows.progress import reporting
from flows.report import make_report
from flows.same_bytes import Comparison, compare, provenance_of
from flows.spread import spread
from flows.stage import Inputs, Stage, Step
from flows.training import train
from modules import tasks
from modules.config import Config
from modules.files import Progress
from modules.parallel import Spread
from modules.run import (
    CorpusConfig,
    NightlyConfig,
    PretrainConfig,
    RunConfig,
    ScoringStep,
    TuningStep,
)
from modules.task import split_files
from registry import artifacts, db, leases, runs, versions
from registry.artifacts import DIGITS, Artifact
from registry.files import locked
from registry.tables import Kind, Run, Status
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

Reading = Callable[[str], Artifact]
"""role -> the input of that role, its bytes here"""


class NotAgainError(ValueError):
    """An artifact cannot be made again here; the message says why."""


def reproduce(workspace: Workspace, what: str) -> Iterator[Comparison]:
    """Make again what a run made, or one artifact or model version; compare each as it is done.

    Raises:
        ValueError: nothing of that name is known.
    """
    leases.keep_alive(workspace)
    for target in chosen(workspace, what):
        try:
            yield remake(workspace, target)
        except NotAgainError as error:
            yield Comparison(target.reference, [], refused=str(error))


def chosen(workspace: Workspace, what: str) -> list[Artifact]:
    """Return what a run and those below it made, oldest first, or the one artifact that is meant.

    Raises:
        ValueError: there is nothing of that name, or the run made nothing.
    """
    with db.reading(workspace.database_url) as session:
        if session.get(Run, what) is None:
            return [artifacts.look_up(workspace, what)]
        made = runs.made_by(session, what)
    if not made:
        raise ValueError(f"run {what} made nothing new: all that it asked for was there already")
    return [artifacts.look_up(workspace, fingerprint) for fingerprint in made]


def remake(workspace: Workspace, target: Artifact) -> Comparison:
    """Make one artifact again and compare it with its manifest.

    Raises:
        NotAgainError: other input files lie here, or other code; or it came from the network.
    """
    folder = workspace.state / "reproduced" / f"{target.kind}-{target.fingerprint[:DIGITS]}"
    with locked(workspace.state / "locks" / f"reproduced.{folder.name}.lock"):
        at = Remaking(workspace, target, folder / "out")
        try:
            again(at, target)
            assert at.done, "the maker of an artifact makes it"
        except BaseException as error:
            stopped = not isinstance(error, Exception)
            at.close(Status.INTERRUPTED if stopped else Status.FAILED, error)
            raise
        at.close(Status.COMPLETED)
        compared = compare(workspace, target, folder)
        shutil.rmtree(workspace.state / "training" / folder.name, ignore_errors=True)
        return compared


class Remaking(Stage):
    """A stage that computes its one target, in a folder of its own, and publishes nothing.

    What else it is asked for is there already.
    """

    def __init__(self, workspace: Workspace, target: Artifact, out: Path) -> None:
        super().__init__(workspace, "remake", {"name": target.name, "artifact": target.reference})
        self.target, self.out, self.done = target, out, False

    def make(
        self,
        kind: Kind,
        name: str,
        step: Step,
        *,
        config: Config,
        inputs: Mapping[str, Artifact | str],
        version: int,
        title: str = "",
    ) -> Artifact:
        """Run the target's step; return any other artifact from where it is."""
        parts = {role: x if isinstance(x, str) else x.fingerprint for role, x in inputs.items()}
        fingerprint = artifacts.fingerprint(kind, config.decisive(), parts, version)
        if fingerprint != self.target.fingerprint:
            found = artifacts.find(self.workspace, kind, fingerprint)
            if found is None or (kind == self.target.kind and name == self.target.name):
                raise NotAgainError(self._changed(config, parts))
            return found
        self.out.mkdir(parents=True, exist_ok=True)
        with reporting(f"progress-{kind.value}", title or f"{kind.value} {name}") as progress:
            step(self.out, progress)
        self.done = True
        return self.target

    def _changed(self, config: Config, parts: Mapping[str, str]) -> str:
        """Say why this code, with what lies here, would make something else."""
        then = self.target.inputs
        roles = [x for x in sorted(then.keys() | parts.keys()) if then.get(x) != parts.get(x)]
        settings = config.model_dump(mode="json") != self.target.config
        what = f"other input files as {', '.join(roles)}" if roles else ""
        what = what or ("other settings" if settings else "another version of the step's code")
        row = provenance_of(self.workspace, self.target)
        return (
            f"{self.target.reference} cannot be made again here: {what} than then; it was made by "
            f"commit {row['git_commit'][:12]} from data {row['data_version']}: check those out "
            "(git checkout, dvc checkout data.dvc)"
        )

    def log_series(self, series: Any) -> None:
        """Record nothing: the numbers were recorded when the target was made."""

    def attach(self, picture: bytes, name: str) -> None:
        """Record nothing."""


# How each kind is made, from its settings, its inputs and the settings of its run


def again(at: Remaking, target: Artifact) -> None:
    """Call the maker of an artifact's kind as it was called then."""

    def read(role: str) -> Artifact:
        return artifacts.checkout(at.workspace, target.inputs[role])

    simple = {Kind.CHECKPOINT: checkpoint, Kind.TUNED: tuned, Kind.SCORES: scores}
    if maker := simple.get(target.kind):
        maker(at, target, read)
    elif target.kind == Kind.REPORT:
        report(at, target, read)
    else:
        corpus = corpus_of(at.workspace, target)
        with spread(corpus.workers) as workers:
            corpus_step(at, target, read, corpus, workers)


def corpus_step(
    at: Remaking, target: Artifact, read: Reading, corpus: CorpusConfig, workers: Spread
) -> None:
    """Make a step of a corpus again."""
    base = read("base") if "base" in target.inputs else None
    warcs = corpus.paths(at.workspace.data, "warcs") if "warcs" in target.inputs else []
    if target.kind == Kind.LINKS:
        make_links(at, corpus, workers)
    elif target.kind == Kind.PAGES and "batch" in target.inputs:
        raise NotAgainError(
            f"{target.reference} holds the pages of one night's batch of links: the crawl ledger, "
            "and the network where they were fetched, have moved on; its bytes are kept"
        )
    elif target.kind == Kind.PAGES:
        make_pages(at, corpus, workers, read("links"), warcs)
    elif "pages" in target.inputs:
        make_text(at, corpus, workers, read("pages"), warcs)
    elif target.kind == Kind.DOCUMENTS:
        make_documents(at, corpus, workers, read("text"), base=base)
    elif target.kind == Kind.TOKENIZER:
        make_tokenizer(at, corpus, read("documents"))
    else:
        make_tokens(at, corpus, workers, read("documents"), read("tokenizer"), base=base)


def checkpoint(at: Remaking, target: Artifact, read: Reading) -> None:
    """Train a checkpoint again."""
    config = PretrainConfig.model_validate(target.config)
    more = [read(role) for role in target.inputs if role.startswith("tokens-")]
    base = read("base") if "base" in target.inputs else None
    corpora = [read("tokens"), *more]
    make_checkpoint(at, config, target.name, corpora, read("tokenizer"), base=base)


def tuned(at: Remaking, target: Artifact, read: Reading) -> None:
    """Fine-tune a checkpoint again."""
    config = TuningStep.model_validate(target.config)
    task, data = tasks.get(config.task), data_of(at.workspace, target)
    start = read("checkpoint")

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        inputs = {"checkpoint": start.path, "data": data}
        return train(at, "finetune", config.training, inputs, out, progress, task=task.name)

    rows = versions.data_fingerprint(at.workspace, split_files(task, data))
    inputs: Inputs = {"checkpoint": start, "task": rows}
    at.make(Kind.TUNED, target.name, step, config=config, inputs=inputs, version=task.version)


def data_of(workspace: Workspace, target: Artifact) -> Path:
    """Return the folder of a fine-tuning's rows: the one that its run named."""
    config = run_of(workspace, target).config
    return (workspace.root / config.get("data", "data")).absolute()


def scores(at: Remaking, target: Artifact, read: Reading) -> None:
    """Score a checkpoint again."""
    config = ScoringStep.model_validate(target.config)
    name = target.name.removesuffix(f"-{config.task}".lower())
    score(at, tasks.get(config.task), read("checkpoint"), name, config.settings)


def report(at: Remaking, target: Artifact, read: Reading) -> None:
    """Write a report of a corpus or of a chain again."""
    if target.name.endswith("-corpus") and "documents" in target.inputs:
        make_look(at, target.name.removesuffix("-corpus"), read("tokens"))
        return
    run = RunConfig.model_validate(settings_of(at.workspace, target, "reproduce"))
    made = {
        kind: {
            role.removeprefix(f"{kind}."): {
                "fingerprint": target.inputs[role],
                "scores": read_scores(read(role).path),
            }
            for role in target.inputs
            if role.startswith(f"{kind}.")
        }
        for kind in ("tuned", "scores")
    }
    make_report(at, run, read("tokens"), read("checkpoint"), made["tuned"], made["scores"])


def run_of(workspace: Workspace, target: Artifact) -> Run:
    """Return the run that made an artifact.

    Raises:
        NotAgainError: it is not known: the artifact was finished after a kill, or came from afar.
    """
    with db.reading(workspace.database_url) as session:
        run = session.get(Run, target.run_id) if target.run_id else None
    if run is None:
        raise NotAgainError(f"{target.reference}: the run that made it is not known here")
    return run


def settings_of(workspace: Workspace, target: Artifact, *stages: str) -> dict[str, Any]:
    """Return the settings of the run that made an artifact.

    Raises:
        NotAgainError: another flow made it, which has a command of its own.
    """
    run = run_of(workspace, target)
    if run.stage not in stages:
        raise NotAgainError(
            f"{target.reference} was made by the flow {run.stage}: run that again in another "
            f"clone; `reproduce` knows the steps of {' and '.join(stages)} for this kind"
        )
    return dict(run.config)


def corpus_of(workspace: Workspace, target: Artifact) -> CorpusConfig:
    """Return the settings of the corpus that an artifact is a step of."""
    found = settings_of(workspace, target, "prepare_corpus", "nightly")
    if "corpus" in found:
        return night_of(found).corpus
    return CorpusConfig.model_validate(found)


def night_of(settings: Mapping[str, Any]) -> NightlyConfig:
    """Return the settings of a night; its run has the corpus' name beside them."""
    return NightlyConfig.model_validate({k: v for k, v in settings.items() if k != "name"})
