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


def sides(row: Row) -> tuple[str, str]:
    """Return the sentence to translate and its translation."""
    return row["translation"]["en"], row["translation"]["fr"]


PROMPTS = translations(sides)

TASK = Task(
    name="wmt14_en_fr",
    format="generation",
    version=1,
    hub="wmt/wmt14 fr-en",
    columns=("translation",),
    splits={"val": "validation", "test": "test"},
    items=PROMPTS(SHOTS),
    few_shot=PROMPTS,
    shots=SHOTS,
    examples="val",
    metrics={"bleu": bleu},
    paper="GPT-2 section 3.7",
    reference=published("WMT-14 English to French BLEU, 1542M"),
    generation=TRANSLATION,
)
