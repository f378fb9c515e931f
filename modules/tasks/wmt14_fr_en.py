"""WMT-14 translation, French to English: as wmt14_en_fr, with the pairs the other way round."""

from modules.evaluation.metrics import bleu
from modules.evaluation.prompts import TRANSLATION, translations
from modules.paper_gpt2 import published
from modules.task import Row, Task
from modules.tasks.wmt14_en_fr import SHOTS


def sides(row: Row) -> tuple[str, str]:
    """Return the sentence to translate and its translation."""
    return row["translation"]["fr"], row["translation"]["en"]


PROMPTS = translations(sides)

TASK = Task(
    name="wmt14_fr_en",
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
    reference=published("WMT-14 French to English BLEU, 1542M"),
    generation=TRANSLATION,
)
