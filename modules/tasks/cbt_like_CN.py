"""Children's Book Test, common nouns: which of ten words fills the gap in the 21st sentence.

GPT-2, section 3.2: score a candidate by the probability of it and the rest of the sentence, given
everything before. No length normalisation. The paper reports the validation split.
"""

from modules.evaluation.metrics import accuracy
from modules.task import Choice, Row, Task, row_id

GAP = "XXXXX"


def gap_choices(rows: list[Row]) -> list[Choice]:
    """Turn rows {context: sentences, query with XXXXX, candidates, answer} into choices."""
    found = []
    for number, row in enumerate(rows):
        before, gap, after = row["query"].partition(GAP)
        if not gap or row["answer"] not in row["candidates"]:
            raise ValueError(
                f"cbt_like, row {number + 1}: column 'query' needs {GAP!r} and column 'answer' "
                "must be one of 'candidates'"
            )
        story = " ".join([*row["context"], before])
        pairs = tuple((story, word + after) for word in row["candidates"])
        found.append(Choice(row_id(row, number), pairs, row["candidates"].index(row["answer"])))
    return found


TASK = Task(
    name="cbt_like_CN",
    format="choice",
    version=1,
    source="zeroshot/cbt_like_CN",
    columns=("context", "query", "candidates", "answer"),
    items=gap_choices,
    metrics={"accuracy": accuracy},
    like="cam-cst/cbt CN",
    paper="GPT-2 section 3.2, Table 3",
    reference={"117M": 87.65, "1542M": 93.30},
)
