"""The same weights and rows through lm-evaluation-harness and through us (the extra `harness`).

Three ways have to agree: the harness with transformers' GPT-2 on the exported weights, the harness
with our model class, and our own evaluation by the harness's convention.
"""

import math
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

from modules import tasks
from modules.evaluation import zero_shot
from modules.evaluation.ask import load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.harness_tasks import harness_task
from modules.model.weights import export_hf
from modules.task import load_rows
from tests.modules.evaluation.conftest import make_checkpoint

pytestmark = pytest.mark.slow  # a minute: the harness makes every position's logits

ITEMS = 12
OURS = {  # task -> the harness's names of our metrics
    "lambada_like": {"accuracy": "acc", "perplexity": "perplexity"},
    "tokenized_wikitext": {"word_perplexity": "word_perplexity"},
    "lm_ppl_bible_kjv": {
        "word_perplexity": "word_perplexity",
        "byte_perplexity": "byte_perplexity",
    },
    "winograd_like": {"accuracy": "acc"},
    "cbt_like_CN": {"accuracy": "acc"},
    "next_passage": {"accuracy": "acc"},
    "social_iqa": {"accuracy": "acc"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("gpt"), data, "gpt")


@pytest.fixture(scope="module")
def configs(tmp_path_factory, data) -> list[dict]:
    folder = tmp_path_factory.mktemp("rows")
    found = []
    for name in OURS:
        task = tasks.get(name)
        items = zero_shot.spread(task.items(load_rows(task, data, "test")), ITEMS)
        found.append(harness_task(name, items, folder))
    return found


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        yield


def simple_evaluate(model, configs) -> dict:
    from lm_eval import simple_evaluate

    found = simple_evaluate(
        model=model, tasks=configs, bootstrap_iters=0, log_samples=False, verbosity="ERROR"
    )
    return found["results"]


@pytest.fixture(scope="module")
def theirs(checkpoint, configs, tmp_path_factory) -> dict:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("export")
    export_hf(checkpoint, folder)
    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    return simple_evaluate(model, configs)


@pytest.fixture(scope="module")
def our_class(checkpoint, configs) -> dict:
    from modules.evaluation.harness_model import TextmillLM

    return simple_evaluate(TextmillLM(str(checkpoint)), configs)


def agree(ours: float, theirs: float, n: int, metric: str) -> bool:
    """Counts of right answers to 1e-6, perplexities to a ten-thousandth."""
    if "perplexity" in metric:
        return math.isclose(ours, theirs, rel_tol=1e-4)
    return math.isclose(ours * n, theirs * n, abs_tol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_our_scores_are_the_harness_s(name, checkpoint, data, tmp_path, theirs, our_class):
    task = tasks.get(name)
    config = ZeroShotConfig(limit=ITEMS, convention="harness", bootstrap_samples=10)
    scores = zero_shot.evaluate_subject(load_subject(checkpoint), task, data, tmp_path, config)
    headline = [s for s in scores if s.protocol["variant"] == task.variant]
    for ours, name_there in OURS[name].items():
        (score,) = [s for s in headline if s.metric == ours]
        expected = theirs[name][f"{name_there},none"]
        assert agree(score.value, expected, ITEMS, ours), (ours, score.value, expected)
        asked = our_class[name][f"{name_there},none"]
        assert agree(asked, expected, ITEMS, ours), (ours, asked, expected)


def test_generation_by_our_class_is_the_harness_s(checkpoint, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from modules.evaluation.harness_model import TextmillLM

    export_hf(checkpoint, tmp_path)
    asked = [
        ("And God said", {"until": ["\n", "the"], "max_gen_toks": 24, "do_sample": False}),
        ("Q: Who built the ark?\nA:", {"until": [" a"], "max_gen_toks": 24, "do_sample": False}),
    ]
    requests = [
        Instance("generate_until", {}, arguments=pair, idx=0, metadata=("t", i, 1))
        for i, pair in enumerate(asked)
    ]
    hf = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=1)
    ours = TextmillLM(str(checkpoint)).generate_until(requests)
    assert ours == hf.generate_until(requests, disable_tqdm=True)
    assert all(ours)
