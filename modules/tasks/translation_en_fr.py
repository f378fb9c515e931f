"""Translation, English to French.

GPT-2, section 3.7: example pairs `english = french`, one per line, then `english =`; greedy, and
the first sentence counts. The paper gives neither the number of pairs nor BLEU's tokenisation:
here the shortest SHOTS example pairs, so that short contexts hold them, and sacrebleu's defaults.
"""

from modules.evaluation.metrics import bleu
from modules.evaluation.prompts import TRANSLATION, translations
from modules.paper_gpt2 import published
from modules.task import Row, Task

SHOTS = 3


def sides(row: Row) -> tuple[str, str]:
    """Return the sentence to translate and its translation."""
    return row["en"], row["fr"]


PROMPTS = translations(sides, shortest=True)

TASK = Task(
    name="translation_en_fr",
    format="generation",
    version=1,
    source="zeroshot/translation_en_fr",
    columns=("use", "en", "fr"),
    items=PROMPTS(SHOTS),
    few_shot=PROMPTS,
    shots=SHOTS,
    like="wmt/wmt14 fr-en",
    metrics={"bleu": bleu},
    paper="GPT-2 section 3.7",
    reference=published("WMT-14 English to French BLEU, 1542M"),
    generation=TRANSLATION,
)
