"""Translation, English to French.

GPT-2, section 3.7: example pairs `english = french`, one per line, then `english =`; greedy, and
the first sentence counts. The paper gives neither the number of pairs nor BLEU's tokenisation:
here the shortest SHOTS example pairs, so that short contexts hold them, and sacrebleu's defaults.
"""

from modules.evaluation.metrics import bleu
from modules.task import Prompt, Row, Task, row_id

SHOTS = 3


def prompts(rows: list[Row], source: str, target: str) -> list[Prompt]:
    """Turn rows {use, en, fr} into prompts after the example pairs."""
    examples = [row for row in rows if row["use"] == "example"]
    shortest = sorted(examples, key=lambda row: len(row["en"]) + len(row["fr"]))[:SHOTS]
    context = "".join(f"{row[source]} = {row[target]}\n" for row in shortest)
    return [
        Prompt(row_id(row, i), f"{context}{row[source]} =", (row[target],))
        for i, row in enumerate(rows)
        if row["use"] != "example"
    ]


def to_french(rows: list[Row]) -> list[Prompt]:
    """Ask for French."""
    return prompts(rows, "en", "fr")


TASK = Task(
    name="translation_en_fr",
    format="generation",
    version=1,
    source="zeroshot/translation_en_fr",
    columns=("use", "en", "fr"),
    items=to_french,
    metrics={"bleu": bleu},
    like="wmt/wmt14 fr-en",
    paper="GPT-2 section 3.7",
    reference={"1542M, BLEU": 5.0},
    generation={
        "max_new_tokens": 80,
        "temperature": 0.0,
        "first_sentences": 1,
        "stop_at_line_end": True,
    },
    notes={"shots": SHOTS},
)
