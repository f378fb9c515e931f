"""Pre-training: tokens -> checkpoint (GPT-1 paper, section 3.1 and 4.1; GPT-2 paper, section 2).

PretrainConfig, its LightningModule and its LightningDataModule, and `pretrain`, which runs them in
this process. Start it through modules.training.fit to have it in a process of its own.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules import tokenizer as bpe
from modules.corpus.token_file import TokenFile, read_held_out, read_index, read_split
from modules.evaluation.config import Precision
from modules.files import Progress, sha256, silent, write_json, write_jsonl
from modules.model import checkpoint
from modules.model.base import Decoder
from modules.training import loop
from modules.training.config import PretrainConfig
from modules.training.domains import domain_scores
from modules.training.loop import Emit, Safety
from modules.training.order import Steps, Windows, check_windows, loader
from modules.training.plan import flops_per_token
from modules.training.step import Training, environment, rank_of

log = logging.getLogger(__name__)


WHOLE_SPLIT = 4096  # windows: the last word is spoken on all of a held-out split up to this size


class PretrainModule(Training):
    """Next-token prediction on windows of the corpus."""

    model: Decoder
    plain_loss = True

    def __init__(
        self, model: Decoder, config: PretrainConfig, val: Tensor | None, *, total: int
    ) -> None:
        """Take the model and the held-out windows (N, T + 1), if there are any."""
        super().__init__(model, config.optim, total=total, seed=config.seed)
        self.config, self.val = config, val
        self.keep_at: Callable[[int], None] = lambda step: None  # writes a snapshot
        if config.compile:
            model.compile()

    def micro_loss(self, batch: Tensor) -> Tensor:
        """Return this micro-batch's share of the nats per token; windows (B, T + 1)."""
        return self.model.lm_loss(batch[:, :-1], batch[:, 1:], share=1 / self.config.accumulate)

    def keep(self) -> None:
        """Write a snapshot where the config asks for one."""
        if self.done in self.config.snapshots:
            self.keep_at(self.done)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the mean loss over the held-out windows, in nats per token."""
        if self.val is None:
            return {}
        self.model.eval()
        total = 0.0
        with loop.autocast(self.config):
            for windows in self.val.split(self.config.batch_size):
                w = windows.to(self.device)
                loss = self.model.lm_loss(w[:, :-1], w[:, 1:])
                total += float(loss) * len(windows)
        self.model.train()
        return {"val_loss": total / len(self.val)}


class PretrainData(L.LightningDataModule):
    """Windows of the training split in their order, from any step on."""

    def __init__(self, tokens: TokenFile, config: PretrainConfig, *, start: int, stop: int) -> None:
        super().__init__()
        self.tokens, self.config, self.start, self.stop = tokens, config, start, stop
        self.windows = Windows(len(tokens), config.window, config.seed)

    def micro_batch(self, number: int) -> Tensor:
        """Return this rank's rows (B / ranks, T + 1) of a micro-batch, int64."""
        size = self.config.batch_size
        rank, ranks = rank_of(self.trainer)
        rows = np.arange(rank * size // ranks, (rank + 1) * size // ranks) + number * size
        return windows_at(self.tokens, self.windows.starts(rows), self.config.window)

    def step(self, step: int) -> list[Tensor]:
        """Return the micro-batches of one optimizer step."""
        n = self.config.accumulate
        return [self.micro_batch(step * n + i) for i in range(n)]

    def train_dataloader(self) -> DataLoader:
        """Return the loader of all steps that are left (Lightning's hook)."""
        steps = Steps(self.step, start=self.start, stop=self.stop)
        return loader(steps, workers=self.config.workers, pin=self.config.device_kind == "cuda")


def windows_at(tokens: TokenFile, starts: np.ndarray, context: int) -> Tensor:
    """Return the windows (N, context + 1) that begin at `starts`, int64."""
    return torch.from_numpy(np.stack([tokens.read(int(s), context + 1) for s in starts]))


def held_out(tokens: TokenFile, context: int, n: int) -> Tensor | None:
    """Return up to n windows (n, context + 1) evenly spread over a split; None if it has none."""
    available = (len(tokens) - 1) // context
    if available < 1:
        return None
    places = np.unique(np.linspace(0, available - 1, min(n, available)).round().astype(np.int64))
    return windows_at(tokens, places * context, context)


def pretrain(
    tokens: Path,
    tokenizer: Path,
    out: Path,
    config: PretrainConfig,
    *,
    documents: Path | None = None,
    progress: Progress = silent,
    emit: Emit | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, int] | None:
    """Train on a tokens/ directory and write a checkpoint/ directory; None when stopped early.

    Checkpoints of the training state lie in out/state while it runs; a later call goes on from the
    newest one that verifies.

    Args:
        documents: what the tokens were made of: the held-out loss is then told by domain too.
        emit: called with an event at most every second.
        stopping: asked after each step; True: save and return.

    Raises:
        ValueError: tokens, tokenizer and config do not fit together.
        FloatingPointError: too many non-finite steps in a row.
    """
    safety = Safety(
        folder=out / "state",
        fingerprint=loop.fingerprint(config, sha256(tokens / "index.json")),
        emit=emit or (lambda event: progress(event["step"], event["of"], _note(event))),
        stopping=stopping,
    )
    check_vocabulary(tokens, tokenizer, config)
    if counts := loop.finished(out, safety):
        return counts
    saved = loop.prepare(config, safety)
    train = read_split(tokens, "train", verify=True)
    windows = Windows(len(train), config.window, config.seed)
    check_windows(windows)
    total = config.total_steps(windows.per_epoch)
    val = held_out(read_split(tokens, "val"), config.window, config.val_windows)
    module = PretrainModule(checkpoint.build(config.model), config, val, total=total)
    module.keep_at = lambda step: snapshot(module, tokenizer, out / f"snapshots/{step:08d}")
    if saved is not None:
        module.restore(saved)
    data = PretrainData(train, config, start=module.done, stop=total)
    tokens_per_step = config.tokens_per_step
    every, flops = config.val_every, flops_per_token(config.model, config.window).total
    if not loop.run(
        module, data, config, safety, val_every=every, tokens=tokens_per_step, flops=flops
    ):
        return None
    counts = {
        "steps": total,
        "tokens": total * config.tokens_per_step,
        "parameters": config.model.n_params,
    }
    if module.global_rank == 0:
        module.to(config.device_kind)  # Lightning has taken it back to the CPU
        module.val = held_out(read_held_out(tokens), config.window, WHOLE_SPLIT)
        whole = module.validate().get("val_loss")
        write_checkpoint(module, tokenizer, out)
        last = {"held_out_loss": whole, "domains": domains(module, tokens, documents)}
        loop.finish(out, training_facts(module) | last, counts, safety)
    return counts


def domains(module: PretrainModule, tokens: Path, documents: Path | None) -> list[dict[str, Any]]:
    """Return how well the finished model predicts each domain of the held-out text."""
    if documents is None:
        return []
    config = module.config
    precision: Precision = "bfloat16" if config.real_precision == "bf16-mixed" else "float32"
    return domain_scores(
        module.model, tokens, documents, context=config.window, precision=precision
    )


def write_checkpoint(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write a checkpoint/ directory's config, weights, tokenizer and loss curve."""
    out.mkdir(parents=True, exist_ok=True)
    bpe.load(tokenizer).save(out / "tokenizer")
    write_jsonl(out / "curve.jsonl", module.curve)
    checkpoint.save(module.model, out)


def snapshot(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write the checkpoint/ directory of a step on the way."""
    write_checkpoint(module, tokenizer, out)
    write_json(out / loop.FACTS, training_facts(module))


def training_facts(module: PretrainModule) -> dict[str, Any]:
    """Return what training.json says about a run; nothing in it depends on the clock."""
    config = module.config
    losses = [row for row in module.curve if "val_loss" in row]
    return {
        "config": config.model_dump(mode="json"),
        "steps": module.done,
        "tokens": module.done * config.tokens_per_step,
        "seed": config.seed,
        "train_loss": next((r["loss"] for r in reversed(module.curve) if "loss" in r), None),
        "val_loss": losses[-1]["val_loss"] if losses else None,
        "best_val_loss": min((r["val_loss"] for r in losses), default=None),
        "precision": config.real_precision,
        "skipped_steps": module.skipped,
        "exact": module.exact,
        "environment": environment(),
    }


def check_vocabulary(tokens: Path, tokenizer: Path, config: PretrainConfig) -> None:
    """Refuse tokens that the model has no row for, or that another tokenizer made.

    Raises:
        ValueError: naming both sides.
        FileNotFoundError: an input is not there.
    """
    index = read_index(tokens)
    if index["tokenizer_sha256"] != bpe.load(tokenizer).sha256:
        raise ValueError(f"{tokens} was not encoded with the tokenizer in {tokenizer}")
    if index["vocab_size"] > config.model.vocab_size:
        raise ValueError(
            f"{tokens} has token ids up to {index['vocab_size']}, model.vocab_size is "
            f"{config.model.vocab_size}: set it to {index['vocab_size']} or more"
        )


def _note(event: dict[str, Any]) -> str:
    return ", ".join(f"{k} {event[k]:.4g}" for k in ("loss", "val_loss") if k in event)
