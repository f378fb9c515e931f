"""What a whole run is made of: inputs, and the config of every step, nested."""

from pathlib import Path

from pydantic import Field

from modules import tasks
from modules.config import Config
from modules.corpus.crawl import FetchConfig
from modules.corpus.extract import ExtractConfig
from modules.corpus.links import LinksConfig
from modules.corpus.pages import PagesConfig
from modules.corpus.recipe import CleanConfig
from modules.corpus.splits import TokensConfig
from modules.evaluation.config import ZeroShotConfig
from modules.task import FINETUNE_FORMATS, Task, find_split, split_files
from modules.tokenizer import TokenizerConfig
from modules.training.config import PretrainConfig
from modules.training.tuning_config import FinetuneConfig, Use


class CorpusConfig(Config):
    """Inputs and steps of a corpus; paths are below the data folder."""

    name: str = "sample"
    """What the artifacts are called."""
    dumps: tuple[str, ...]
    """Link dumps: Pushshift submissions, Hacker News items, JSON lines, CSV or Parquet with url,
    score, date; plain, .zst, .xz, .gz or .bz2."""
    warcs: tuple[str, ...]
    """Stored pages, WARC files."""
    extra: tuple[str, ...] = ()
    """Ready-made texts that join the cleaned documents: JSON lines with id, source, title, text."""
    wikipedia: tuple[str, ...] = ()
    """Wikipedia's texts, JSON lines with `text`: what clean.filters.max_in_wikipedia looks for."""
    evaluation: tuple[str, ...] = ()
    """Tasks whose test sets clean.filters.max_in_evaluation looks for."""
    links: LinksConfig = LinksConfig()
    """Which links count."""
    pages: PagesConfig = PagesConfig()
    """How a stored page is found for a link."""
    extract: ExtractConfig = ExtractConfig()
    """How main text is taken out of a page."""
    clean: CleanConfig = CleanConfig()
    """Filters and de-duplication."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Byte-pair encoding learnt from the documents."""
    use_tokenizer: str = ""
    """Take this tokenizer (tokenizer/NAME, or a fingerprint) instead of learning one, so that the
    tokens can be mixed with those of its corpus (`textmill pretrain --tokens A,B`)."""
    tokens: TokensConfig = TokensConfig()
    """Splits and shards."""
    workers: int = Field(default=0, ge=0)
    """Processes that share a step on this machine, 0 for one a core; the result is the same."""

    def paths(self, data: Path, what: str) -> list[Path]:
        """Return the input files of one field (dumps, warcs, ...) below the data folder.

        Raises:
            FileNotFoundError: one is not there; the message says how to get it.
            ValueError: a name leads out of the data folder, or nothing is named at all.
        """
        names: tuple[str, ...] = getattr(self, what)
        if not names and what in ("dumps", "warcs"):
            raise ValueError(f"no {what} are named: --set 'corpus.{what}=[\"web/FILE\"]'")
        found = [data / name for name in names]
        for name, path in zip(names, found, strict=True):
            if not path.resolve().is_relative_to(data.resolve()):
                raise ValueError(f"{what} {name!r} leads out of {data}; give a path below it")
            if not path.is_file():
                raise FileNotFoundError(
                    f"{what} {path} is not there: bring the data (`make data`, or "
                    f"`dvc pull data.dvc`), or change corpus.{what}"
                )
        return found

    def check(self, data: Path) -> None:
        """Find mistakes before anything starts.

        Raises:
            ValueError, FileNotFoundError: naming the setting or file and the mend.
        """
        for what in ("dumps", "warcs", "extra", "wikipedia"):
            self.paths(data, what)
        self.evaluation_files(data)

    def evaluation_files(self, data: Path) -> list[Path]:
        """Return the test files of the evaluation tasks.

        Raises:
            ValueError, FileNotFoundError: a task is unknown, or has no file there.
        """
        chosen = [tasks.get(name) for name in self.evaluation]
        return [find_split(task, data, "test") for task in chosen]


class NightlyConfig(Config):
    """One night's growth of a corpus."""

    corpus: CorpusConfig
    """The new dumps, WARC files (used if nothing is fetched), and the settings of every step."""
    fetch: FetchConfig | None = None
    """How pages are fetched; none: they are looked for in corpus.warcs."""
    limit: int = Field(default=1_000_000, ge=1)
    """Links taken in one night at most; the longest due come first."""

    def check(self, data: Path) -> None:
        """Find mistakes before anything starts.

        Raises:
            ValueError, FileNotFoundError: naming the setting or file and the mend.
        """
        for what in ("dumps", "extra") if self.fetch else ("dumps", "warcs", "extra"):
            self.corpus.paths(data, what)
        if self.fetch:
            self.fetch.check()


class TokenizerStep(Config):
    """What a tokenizer follows from, beside the documents: it must not see held-out text."""

    tokenizer: TokenizerConfig
    """How it is learnt."""
    tokens: TokensConfig
    """Which documents are for training."""


class TuningStep(Config):
    """What one tuned checkpoint follows from, beside its inputs: tasks may share a file of rows."""

    task: str
    """The task's name."""
    training: FinetuneConfig
    """How it is trained."""


class ScoringStep(Config):
    """What one task's scores follow from, beside their inputs: tasks may share a file of rows."""

    task: str
    """The task's name."""
    settings: ZeroShotConfig
    """How it is scored."""


class FinetuneRun(Config):
    """Which tasks are fine-tuned, and how."""

    tasks: tuple[str, ...]
    """Tasks of the four fine-tuning formats, by name."""
    training: FinetuneConfig = FinetuneConfig()
    """Settings of each training; seed is set by the line below."""
    seeds: tuple[int, ...] = (0,)
    """One training per seed."""
    compare_scratch: bool = False
    """Also train the same network from random weights."""
    token_limits: dict[str, int] = Field(default_factory=dict)
    """Train on rows of at most so many tokens in all for these tasks (max_train_tokens)."""
    likelihood_tasks: tuple[str, ...] = ()
    """Multiple choice: likelihood = true for these tasks alone."""
    data: str = "data"
    """The folder below which the tasks' rows lie (finetune/TASK/...), from the project's root."""
    register_models: bool = True
    """Make the first seed of the paper's method (auxiliary) a version of textmill-NAME-TASK."""

    def folder(self, root: Path) -> Path:
        """Return the folder of the tasks' rows.

        Raises:
            FileNotFoundError: it is not there.
        """
        found = (root / self.data).resolve() if self.data != "data" else root / "data"
        if not found.is_dir():
            raise FileNotFoundError(f"finetune.data: {found} is not there")
        return found

    def settings_of(self, task: str, use: Use, seed: int) -> FinetuneConfig:
        """Return the settings of one training."""
        tokens = self.token_limits.get(task, self.training.max_train_tokens)
        likelihood = self.training.likelihood or task in self.likelihood_tasks
        return self.training.but(use=use, seed=seed, max_train_tokens=tokens, likelihood=likelihood)

    def chosen(self) -> list[Task]:
        """Return the tasks.

        Raises:
            ValueError: one is unknown, or has no labelled rows to train on.
        """
        for name in self.likelihood_tasks:
            if tasks.get(name).format != "multiple_choice":
                raise ValueError(f"likelihood_tasks: {name} has no answers to choose from")
        found = [tasks.get(name) for name in self.tasks]
        for task in found:
            if task.format not in FINETUNE_FORMATS:
                raise ValueError(
                    f"task {task.name} is {task.format}: it is scored by `textmill evaluate`, "
                    f"not fine-tuned"
                )
        return found


class ZeroShotRun(Config):
    """Which tasks are scored by prompting, and how."""

    tasks: tuple[str, ...]
    """Tasks of the zero-shot formats, by name."""
    settings: ZeroShotConfig = ZeroShotConfig()
    """Settings of every task."""
    limits: dict[str, int] = Field(default_factory=dict)
    """Score only so many items of these tasks (said in their scores' protocol)."""

    def chosen(self) -> list[Task]:
        """Return the tasks.

        Raises:
            ValueError: one is unknown, or is not asked by prompting.
        """
        found = [tasks.get(name) for name in self.tasks]
        for task in found:
            if task.format in FINETUNE_FORMATS:
                raise ValueError(
                    f"task {task.name} is {task.format}: it is for `textmill finetune`, "
                    f"not prompted"
                )
        return found

    def settings_of(self, task: str) -> ZeroShotConfig:
        """Return the settings one task is scored with."""
        return self.settings.but(limit=self.limits.get(task, self.settings.limit))


class ContinueConfig(Config):
    """How a champion goes on with new tokens."""

    name: str
    """The model is textmill-NAME, and so are its checkpoints."""
    corpus: str = ""
    """Name of the tokens; empty: as the model."""
    pretrain: PretrainConfig
    """How long and at which rate; its model is the champion's, whatever stands here."""
    zero_shot: ZeroShotRun
    """What the new checkpoint is scored on."""


class RunConfig(Config):
    """A whole chain, from link dumps to a registered and scored model."""

    name: str
    """What it is called; the registered model is textmill-NAME."""
    corpus: CorpusConfig
    """From dumps to tokens."""
    pretrain: PretrainConfig
    """From tokens to a checkpoint."""
    finetune: FinetuneRun
    """From the checkpoint to tuned ones."""
    zero_shot: ZeroShotRun
    """From the checkpoint to scores."""

    def check(self, data: Path) -> None:
        """Find mistakes before anything starts.

        Raises:
            ValueError, FileNotFoundError: naming the setting or file and the mend.
        """
        self.corpus.check(data)
        for task in self.finetune.chosen():
            split_files(task, data)
        for task in self.zero_shot.chosen():
            find_split(task, data, "test")


__all__ = [
    "ContinueConfig",
    "CorpusConfig",
    "FinetuneConfig",
    "FinetuneRun",
    "NightlyConfig",
    "PretrainConfig",
    "RunConfig",
    "ScoringStep",
    "TokenizerConfig",
    "TokenizerStep",
    "TuningStep",
    "Use",
    "ZeroShotConfig",
    "ZeroShotRun",
]
