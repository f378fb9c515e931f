"""WMT-14 translation, English to French (newstest2014, 3,003 pairs).

GPT-2, section 3.7: example pairs `english = french`, one per line, then `english =`; greedy, and
the first sentence counts. The paper gives neither the number of pairs nor where they are from, nor
BLEU's tokenisation: here the first of validation (newstest2013), and sacrebleu's defaults.
"""

from modules.evaluation.metrics import bleu
from modules.evaluation.prompts import TRANSLATION, translations
from modules.paper_gpt2 import published
from modules.task import Row, Task

SHOTS = 5


def wmt14(name: str, source: str, target: str, result: str) -> Task:
    """Return the translation of newstest2014 from one language to the other."""

    def sides(row: Row) -> tuple[str, str]:
        return row["translation"][source], row["translation"][target]

    prompts = translations(sides)
    return Task(
        name=name,
        format="generation",
        version=1,
        hub="wmt/wmt14 fr-en",
        columns=("translation",),
        splits={"val": "validation", "test": "test"},
        items=prompts(SHOTS),
        few_shot=prompts,
        shots=SHOTS,
        examples="val",
        metrics={"bleu": bleu},
        paper="GPT-2 section 3.7",
        reference=published(result),
        generation=TRANSLATION,
    )


TASK = wmt14("wmt14_en_fr", "en", "fr", "WMT-14 English to French BLEU, 1542M")
