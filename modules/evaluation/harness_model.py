"""Our models as a model class of lm-evaluation-harness (the extra `harness`).

    python -m modules.evaluation.harness_model run --model textmill \
        --model_args checkpoint=FOLDER --tasks TASK --include_path FOLDER

or lm_eval.simple_evaluate(model=TextmillLM("FOLDER"), tasks=[...]). Its conventions are kept: text
in windows that do not overlap, each long context cut for itself, sums of log-probabilities.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from modules.evaluation.ask import Subject, load_subject
from modules.evaluation.config import Precision
from modules.evaluation.score import autocast, choice_logprobs, rolling_logprobs
from modules.model.generate import GenerationConfig, generate


@register_model("textmill")  # type: ignore[untyped-decorator,unused-ignore]
class TextmillLM(LM):  # type: ignore[misc,unused-ignore]
    """A checkpoint of ours, asked by the harness."""

    def __init__(
        self,
        checkpoint: str | Subject,
        device: str | None = None,
        precision: Precision = "float32",
        batch_size: int | str | None = None,
        batch_tokens: int = 1024,
        **_: Any,
    ) -> None:
        """Load a checkpoint's folder; the harness's other arguments mean nothing here."""
        super().__init__()
        if isinstance(checkpoint, str):
            checkpoint = load_subject(Path(checkpoint), device or "cpu")
        self.subject = checkpoint
        self.how: dict[str, Any] = {"precision": precision}
        self.scoring = {"batch_tokens": int(batch_tokens), **self.how}
        self.prompts = int(str(batch_size)) if str(batch_size).isdigit() else 16

    @property
    def _asked(self) -> tuple[Any, Any]:
        return self.subject.model, self.subject.tokenizer

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability and whether it is the most probable one.

        Requests of one document stand together, and share what their contexts share.
        """
        groups = [list(g) for _, g in groupby(requests, key=lambda r: (r.task_name, r.doc_id))]
        pairs = [[request.args for request in group] for group in groups]
        scored = choice_logprobs(*self._asked, pairs, cut_alike=False, **self.scoring)
        return [(one.logprob, all(one.greedy)) for group in scored for one in group]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-probability of each whole text."""
        texts = [request.args[0] for request in requests]
        stride = self.subject.positions
        return [x for x, _ in rolling_logprobs(*self._asked, texts, stride=stride, **self.scoring)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Continue each prompt until one of its stops; requests asked alike go together."""
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        found: dict[int, str] = {}
        for wanted, numbers in alike.items():
            prompts = [requests[number].args[0] for number in numbers]
            found |= zip(numbers, self._continued(prompts, json.loads(wanted)), strict=True)
        return [found[number] for number in range(len(requests))]

    def _continued(self, prompts: list[str], wanted: dict[str, Any]) -> list[str]:
        model, tokenizer = self._asked
        until = wanted.get("until") or []
        until = [until] if isinstance(until, str) else until
        sampled = wanted.get("do_sample", False)
        config = GenerationConfig(
            max_new_tokens=wanted.get("max_gen_toks", 256),
            temperature=wanted.get("temperature", 1.0) if sampled else 0.0,
            top_k=wanted.get("top_k"),
            top_p=wanted.get("top_p", 1.0),
            batch_size=self.prompts,
        )
        ids, stops = [tokenizer.encode(prompt) for prompt in prompts], endings(tokenizer, until)
        with autocast(model, self.how["precision"]):
            found = generate(model, ids, config, stops, tokenizer.eot)
        texts = [tokenizer.decode(tokens) for tokens in found]
        return [
            min((t.split(stop)[0] for stop in until if stop), key=len, default=t) for t in texts
        ]


def endings(tokenizer: Any, until: Sequence[str]) -> list[list[int]]:
    """Return token sequences that may end a row: nothing that counts stands before the stop."""
    first = tuple(stop.encode() for stop in until if stop)
    ids = (i for i in range(tokenizer.n_vocab) if i != tokenizer.eot)
    single = [[i] for i in ids if tokenizer.decode_bytes([i]).startswith(first)] if first else []
    return single + [tokenizer.encode(stop) for stop in until if stop]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
