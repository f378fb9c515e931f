"""Pre-training: tokens -> checkpoint (GPT-1 paper, section 3.1 and 4.1; GPT-2 paper, section 2).

`pretrain` runs the module and the data of lm.py in this process. Start it through
modules.training.fit to have it in a process of its own.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modules import tokenizer as bpe
from modules.corpus.token_file import read_index
from modules.evaluation.config import Precision
from modules.files import Progress, sha256, silent, write_json, write_jsonl
from modules.model import checkpoint
from modules.model.checkpoint import WEIGHTS
from modules.training import loop, ranks
from modules.training.config import PretrainConfig
from modules.training.corpora import Corpora, identities, named
from modules.training.domains import domain_scores
from modules.training.lm import PretrainData, PretrainModule
from modules.training.loop import Emit, Safety
from modules.training.plan import flops_per_token
from modules.training.state import State, check_finite
from modules.training.step import environment, weights_of
from modules.training.transfer import rescale

log = logging.getLogger(__name__)


WHOLE_SPLIT = 4096  # windows: the last word is spoken on all of a held-out split up to this size


def pretrain(
    tokens: Path | Mapping[str, Path],
    tokenizer: Path,
    out: Path,
    config: PretrainConfig,
    *,
    base: Path | None = None,
    progress: Progress = silent,
    emit: Emit | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, int] | None:
    """Train on tokens/ directories and write a checkpoint/ directory; None when stopped early.

    Checkpoints of the training state lie in out/state while it runs; a later call goes on from the
    newest one that verifies.

    Args:
        tokens: one directory, or several by name, mixed as the config says.
        base: a checkpoint/ directory whose weights are gone on with; the optimizer begins anew.
        emit: called with an event at most every second.
        stopping: asked after each step; True: save and return.

    Raises:
        ValueError: tokens, tokenizer and config do not fit together.
        FloatingPointError: too many non-finite steps in a row.
    """
    paths = named(tokens, config)
    for directory in paths.values():
        check_vocabulary(directory, tokenizer, config)
    check_base(base, tokenizer, config)
    safety = Safety(
        folder=out / "state",
        fingerprint=loop.fingerprint(config, *identities(paths), *identity_of(base)),
        emit=emit or (lambda event: progress(event["step"], event["of"], _note(event))),
        stopping=stopping,
    )
    if counts := loop.finished(out, safety):
        return counts
    saved = loop.prepare(config, safety)
    corpora = Corpora(paths, config)
    module = train(
        begin(corpora, config, saved, base),
        corpora,
        safety,
        keep_as=lambda module: snapshot(module, tokenizer, out / f"snapshots/{module.done:08d}"),
        base=base,
    )
    if module is None:
        return None
    total = module.total
    counts = {
        "steps": total,
        "tokens": config.tokens_before(total),
        "parameters": config.model.n_params,
    }
    module.model = ranks.whole_model(module.model)
    if ranks.is_first():
        module.to(config.device_kind)  # Lightning has taken it back to the CPU
        module.val = corpora.held_out(WHOLE_SPLIT, last=True)
        whole = module.validate()
        facts = training_facts(module) | {
            "held_out_loss": whole.pop("val_loss", None),
            "held_out_losses": {k.removeprefix("val_loss/"): v for k, v in whole.items()},
            "epochs": corpora.epochs(total),
        }
        write_checkpoint(module, tokenizer, out)
        loop.finish(out, facts | {"domains": domains(module, paths, tokenizer)}, counts, safety)
    return counts


def train(
    module: PretrainModule,
    corpora: Corpora,
    safety: Safety,
    *,
    keep_as: Callable[..., None],
    base: Path | None = None,
) -> PretrainModule | None:
    """Train to the end, back before spikes if need be; None when stopped early."""
    config = module.config
    while True:
        module.keep_as = keep_as
        data = PretrainData(
            corpora.rows, config, start=module.done, stop=module.total, left_out=module.left_out
        )
        every, before, flops = config.val_every, config.tokens_before, flops_at(config)
        if not loop.run(module, data, config, safety, val_every=every, tokens=before, flops=flops):
            return None
        if module.back_to is None:
            return module
        spikes, left_out = module.spikes, module.left_out
        module = begin(corpora, config, loop.prepare(config, safety), base)
        module.spikes, module.left_out = spikes, left_out


def begin(
    corpora: Corpora, config: PretrainConfig, saved: State | None, base: Path | None = None
) -> PretrainModule:
    """Return the module as the run begins, with new weights or a base's, or as it was saved."""
    model = checkpoint.build(config.model).to(config.weight_dtype)
    if base is not None:
        model.load_state_dict(checkpoint.load(base).state_dict())
    else:
        rescale(model, config.optim)
    held_out = corpora.held_out(config.val_windows)
    total = config.total_steps(corpora.rows.per_epoch)
    module = PretrainModule(model, config, held_out, total=total)
    if saved is not None:
        module.restore(saved)
    return module


def identity_of(base: Path | None) -> list[str]:
    """Return what a run's fingerprint takes of the weights it begins with."""
    return [] if base is None else [f"base {sha256(base / WEIGHTS)}"]


def check_base(base: Path | None, tokenizer: Path, config: PretrainConfig) -> None:
    """Compare a base with what is to be trained.

    Raises:
        ValueError: it is another model, or speaks another vocabulary.
    """
    if base is None:
        return
    found = checkpoint.load(base).config
    if found != config.model:
        raise ValueError(
            f"base {base} is a model of {found}, the config says {config.model}; "
            "take the base's (its config.json)"
        )
    if bpe.load(base / "tokenizer").sha256 != bpe.load(tokenizer).sha256:
        raise ValueError(f"base {base} was trained with another tokenizer than {tokenizer}")


def flops_at(config: PretrainConfig) -> Callable[[int], int]:
    """Return the operations per token as a function of the step."""
    return lambda step: flops_per_token(config.model, config.window_at(step)).total


def domains(
    module: PretrainModule, paths: Mapping[str, Path], tokenizer: Path
) -> list[dict[str, Any]]:
    """Return how well the finished model predicts each domain of each corpus's held-out text."""
    config, encoder = module.config, bpe.load(tokenizer)
    precision: Precision = "bfloat16" if config.real_precision == "bf16-mixed" else "float32"
    found = []
    for name, tokens in paths.items():
        rows = domain_scores(
            module.model, encoder, tokens, context=config.window, precision=precision
        )
        before = f"{name}/" if len(paths) > 1 else ""
        found += [row | {"domain": before + row["domain"]} for row in rows]
    return found


def write_checkpoint(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write a checkpoint/ directory's config, weights, tokenizer and loss curve.

    Raises:
        FloatingPointError: the weights are not finite; nothing was written.
    """
    model = ranks.whole_model(module.model)
    if not ranks.is_first():
        return
    check_finite(weights_of(model), str(out))
    out.mkdir(parents=True, exist_ok=True)
    bpe.load(tokenizer).save(out / "tokenizer")
    write_jsonl(out / "curve.jsonl", module.curve)
    checkpoint.save(model, out)


def snapshot(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write the checkpoint/ directory of a step on the way (all ranks call it)."""
    write_checkpoint(module, tokenizer, out)
    if ranks.is_first():
        write_json(out / loop.FACTS, training_facts(module))


def training_facts(module: PretrainModule) -> dict[str, Any]:
    """Return what training.json says about a run; nothing in it depends on the clock."""
    config = module.config
    losses = [row for row in module.curve if "val_loss" in row]
    return {
        "config": config.model_dump(mode="json"),
        "steps": module.done,
        "tokens": config.tokens_before(module.done),
        "seed": config.seed,
        "train_loss": next((r["loss"] for r in reversed(module.curve) if "loss" in r), None),
        "val_loss": losses[-1]["val_loss"] if losses else None,
        "best_val_loss": min((r["val_loss"] for r in losses), default=None),
        "precision": config.real_precision,
        "skipped_steps": module.skipped,
        "spikes": module.spikes,
        "left_out": module.left_out,
        "exact": module.exact,
        "environment": environment(config),
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
