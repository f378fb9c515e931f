"""textmill's scoring of some items, when it is told to."""

from pathlib import Path

from bench.scorers.turns import take_turns
from bench.trainers import job
from modules.evaluation.ask import load_subject
from modules.evaluation.cloze import cloze_rows
from modules.evaluation.score import choice_logprobs, rolling_logprobs
from modules.task import Cloze

settings = job()


def score(kind: str, groups: list) -> list:
    """Return [log-probability, greedy] of each request."""
    how = {"precision": settings["precision"]}
    if kind == "rolling":
        texts = [text for group in groups for (text,) in group]
        found = rolling_logprobs(*asked, texts, stride=asked[0].config.n_positions, **how)
        return [[x, False] for x, _ in found]
    if kind == "lambada, all three counts":
        items = [Cloze(str(i), *group[0]) for i, group in enumerate(groups)]
        rows = cloze_rows(*asked, items, batch_tokens=1024, **how)
        return [[-row["nll"], bool(row["accuracy"])] for row in rows]
    scored = choice_logprobs(*asked, groups, cut_alike=False, **how)
    return [[one.logprob, all(one.greedy)] for group in scored for one in group]


if __name__ == "__main__":
    subject = load_subject(Path(settings["checkpoint"]))
    asked = (subject.model, subject.tokenizer)
    take_turns(score)
