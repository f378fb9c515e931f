"""Fine-tuning's loss, gradients and updates against reference_finetune.py; the loss's variants."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from modules import tokenizer as bpe
from modules.files import read_jsonl
from modules.model import checkpoint
from modules.model.heads import HeadConfig, TaskModel
from modules.tasks import TASKS
from modules.training import objective
from modules.training.build import build
from modules.training.finetune import FinetuneModule, finetune
from modules.training.transform import Encoded, collate, encode, micro_batches
from modules.training.tuning_config import GPT1_FINETUNE_OPTIM, FinetuneConfig

REFERENCE = runpy.run_path(str(Path(__file__).with_name("reference_finetune.py")))
FORMATS = {
    "passage_source": "classification",
    "question_in_sentence": "entailment",
    "verse_pairs": "similarity",
    "next_passage": "multiple_choice",
}


def config_of(**changes) -> FinetuneConfig:
    plain = {"dropout": 0.0, "clf_dropout": 0.0, "precision": "32-true", "accelerator": "cpu"}
    return FinetuneConfig(**{**plain, "threads": 1, "tokens_per_micro_batch": 200, **changes})


@pytest.fixture(scope="module", params=["pre", "post"])
def start(request, tiny, corpus, tmp_path_factory) -> Path:
    """A checkpoint of either paper's decoder, with weights far from their start."""
    out = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = checkpoint.build(tiny.but(norm=request.param))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    checkpoint.save(model, out)
    bpe.load(Path(corpus["tokenizer"])).save(out / "tokenizer")
    return out


def examples_of(task: str, start: Path, data: Path, n: int = 12) -> list[Encoded]:
    rows = list(read_jsonl(data / f"finetune/{task}/train.jsonl"))[:n]
    labels = TASKS[task].labels
    for row in rows:
        if isinstance(row["label"], str):
            row["label"] = labels.index(row["label"])
    tokenizer = bpe.load(start / "tokenizer")
    return encode(TASKS[task].items(rows), tokenizer, FORMATS[task], first=280, longest=32)


def weights_of(model: TaskModel) -> dict[str, torch.Tensor]:
    return {n.removeprefix("decoder."): p.detach().clone() for n, p in model.named_parameters()}


def sizes_of(model: TaskModel) -> dict:
    config = model.decoder.config
    return {"norm": config.norm, "n_layer": config.n_layer, "n_head": config.n_head}


def split(examples: list[Encoded]) -> tuple[list, list]:
    return [e.sequences for e in examples], [e.label for e in examples]


def assert_like(got: dict, wanted: dict, rtol: float = 1e-5) -> None:
    """Every tensor equal to `rtol` of its own largest element (some gradients are 0)."""
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        size = tensor.abs().max().item()
        close = {"rtol": rtol, "atol": rtol * (size + 1e-2)}
        torch.testing.assert_close(got[name].double(), tensor, **close, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("average", ["sequence", "token"])
@pytest.mark.parametrize("task", FORMATS)
def test_loss_and_gradients_are_the_references(task, average, dtype, start, toy_tasks):
    config = config_of(lm_average=average)
    model = build(start, TASKS[task], config).to(dtype)
    examples = examples_of(task, start, toy_tasks)
    value, grads = REFERENCE["gradients"](
        weights_of(model), sizes_of(model), FORMATS[task], *split(examples), average=average
    )
    module = FinetuneModule(model, config, examples, total=1)
    parts = micro_batches(examples, 200, lm_average=average)
    assert len(parts) > 1
    got = sum(module.micro_loss(part) for part in parts)
    got.backward()
    rtol = 1e-5 if dtype == torch.float32 else 1e-9
    assert got.item() == pytest.approx(value, rel=rtol)
    assert_like(
        {n.removeprefix("decoder."): p.grad for n, p in model.named_parameters()}, grads, rtol
    )


@pytest.mark.parametrize("task", FORMATS)
def test_updates_are_the_references(task, start, toy_tasks, tmp_path):
    optim = GPT1_FINETUNE_OPTIM.but(optimizer="release_adam", lr=1e-2)
    config = config_of(optim=optim, epochs=2, max_train_examples=12, select="last", batch_size=12)
    config = config.but(precision="64-true", max_val_examples=4)
    before = build(start, TASKS[task], config)
    finetune(start, toy_tasks, tmp_path, config, task=task)
    after = weights_of(checkpoint.load_task_model(tmp_path))
    examples = drawn(task, start, toy_tasks, config)
    batches = [split(examples)] * 2  # the order within a batch does not matter
    wanted = REFERENCE["train"](
        weights_of(before), batches, sizes_of(before), FORMATS[task], lr=1e-2, total=2
    )
    assert_like(after, wanted)
    moved = [(after[n] - t).abs().max().item() for n, t in weights_of(before).items()]
    assert sum(distance > 1e-4 for distance in moved) > 0.7 * len(moved)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert [row["lr"] for row in read_jsonl(tmp_path / "curve.jsonl")] == [0.0, 0.005]
    assert facts["best"]["step"] == facts["steps"] == 2


def drawn(task, start, data, config) -> list[Encoded]:
    """The rows that max_train_examples draws."""
    from modules.training.transform import sample

    return list(sample(examples_of(task, start, data, 96), 12, config.seed))


@pytest.mark.parametrize("score_loss", ["classes", "squared"])
def test_scores_as_the_release_and_as_regression(score_loss, start, toy_tasks):
    config = config_of()
    model = build(start, TASKS["verse_pairs"], config).double()
    head = HeadConfig(
        format="similarity", n_classes=6, dropout=0.0, scale=(0, 5), score_loss=score_loss
    )
    model = TaskModel(model.decoder, head).double()
    examples = [
        Encoded(e.id, e.sequences, label, e.cut)
        for e, label in zip(
            examples_of("verse_pairs", start, toy_tasks, 5), [0.0, 5.0, 2.5, 3.8, 1.0], strict=True
        )
    ]
    value, grads = REFERENCE["gradients"](
        weights_of(model), sizes_of(model), "similarity", *split(examples), scores=score_loss
    )
    got = FinetuneModule(model, config, examples, total=1).micro_loss(collate(examples))
    got.backward()
    assert got.item() == pytest.approx(value, rel=1e-6)
    assert_like({n.removeprefix("decoder."): p.grad for n, p in model.named_parameters()}, grads)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("task", FORMATS)
def test_logits_depend_on_nothing_but_the_example(task, kernels, start, toy_tasks):
    model = build(start, TASKS[task], config_of()).eval()
    examples = examples_of(task, start, toy_tasks)
    examples[0] = Encoded("short", tuple(s[-6:] for s in examples[0].sequences), 0, False)

    @torch.no_grad()
    def logits(some: list[Encoded]) -> torch.Tensor:
        batch = collate(some)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kernels):
            return model(batch.tokens, batch.extract).float()

    together, alone = logits(examples), torch.cat([logits([e]) for e in examples])
    tolerance = 2e-2 if kernels else 1e-5  # bfloat16 has 8 bits
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)
    if task == "verse_pairs":  # both orders of a pair give the same logits
        turned = [Encoded(e.id, e.sequences[::-1], e.label, e.cut) for e in examples]
        torch.testing.assert_close(logits(turned), together, rtol=tolerance, atol=tolerance)


def test_the_releases_dropout_is_one_mask_a_step(start):
    model = build(start, TASKS["verse_pairs"], config_of(dropout=0.5, embedding_dropout="matrix"))
    first = objective.drop_matrix(model.decoder, 1)
    again, other = objective.drop_matrix(model.decoder, 1), objective.drop_matrix(model.decoder, 2)
    assert set(first) == {"wte.weight", "wpe.weight"}
    for name, tensor in first.items():
        own = model.decoder.get_parameter(name)
        kept = tensor != 0
        assert 0.4 < kept.float().mean() < 0.6
        torch.testing.assert_close(tensor[kept], 2 * own[kept])
        assert torch.equal(tensor, again[name]) and not torch.equal(tensor, other[name])


@pytest.mark.parametrize("lm_classes", ["vocabulary", "with_positions"])
def test_the_dropped_matrix_is_read_everywhere(lm_classes, start, toy_tasks):
    """The loss is that of a model whose tables are the dropped ones, the output's too."""
    config = config_of(embedding_dropout="matrix", lm_classes=lm_classes)
    model = build(start, TASKS["verse_pairs"], config.but(dropout=0.5)).double()
    for module in model.modules():  # only the tables are dropped here
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    batch = collate(examples_of("verse_pairs", start, toy_tasks, 4))
    got = objective.loss(model, config, batch, step=3)
    seed = objective.mix(config.seed, 3, 7)
    dropped = objective.drop_matrix(model.decoder, seed)
    got.backward()
    assert not model.decoder.wpe.weight.grad[dropped["wpe.weight"] == 0].any()
    with torch.no_grad():
        for name, tensor in dropped.items():
            model.decoder.get_parameter(name).copy_(tensor)
    wanted = objective.loss(model, config.but(embedding_dropout="activations"), batch, step=3)
    torch.testing.assert_close(got, wanted)
    if lm_classes == "with_positions":  # more classes: a larger loss
        assert wanted > objective.loss(
            model, config_of(embedding_dropout="activations"), batch, step=3
        )


@pytest.mark.parametrize("kind", ["activations", "separate"])
def test_what_activation_dropout_is_drawn_for(kind, start):
    model = build(start, TASKS["verse_pairs"], config_of(dropout=0.5, embedding_dropout=kind))
    decoder = model.decoder
    with torch.no_grad():
        decoder.wte.weight.fill_(1.0)
        decoder.wpe.weight.fill_(10.0)
    x = decoder.embed(torch.zeros(8, 16, dtype=torch.long), torch.arange(16))
    values = {"activations": {0.0, 22.0}, "separate": {0.0, 2.0, 20.0, 22.0}}
    assert set(x.unique().tolist()) == values[kind]
