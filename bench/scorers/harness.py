"""lm-evaluation-harness's scoring of the same items with transformers' model, when it is told to.

Its model class is asked directly: task files, prompts and bootstraps are not counted.
"""

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bench.scorers.turns import take_turns
from bench.trainers import job

settings = job()


def score(kind: str, groups: list) -> list:
    """Return [log-probability, greedy] of each request."""
    model.batch_size_per_gpu = int(settings["batch"][kind.split(",")[0]])
    way = "loglikelihood_rolling" if kind == "rolling" else "loglikelihood"
    requests = [
        Instance(way, {}, arguments=tuple(pair), idx=k, metadata=(kind, i, 1))
        for i, group in enumerate(groups)
        for k, pair in enumerate(group)
    ]
    found = getattr(model, way)(requests, disable_tqdm=True)
    return [[x, False] for x in found] if kind == "rolling" else [list(pair) for pair in found]


if __name__ == "__main__":
    model = HFLM(pretrained=settings["export"], device="cpu", dtype="float32", batch_size=1)
    take_turns(score)
