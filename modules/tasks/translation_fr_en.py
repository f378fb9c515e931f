"""Translation, French to English: as translation_en_fr, with the pairs the other way round."""

from modules.evaluation.metrics import bleu
from modules.evaluation.prompts import TRANSLATION, translations
from modules.paper_gpt2 import published
from modules.task import Row, Task
from modules.tasks.translation_en_fr import SHOTS


def sides(row: Row) -> tuple[str, str]:
    """Return the sentence to translate and its translation."""
    return row["fr"], row["en"]


PROMPTS = translations(sides, shortest=True)

TASK = Task(
    name="translation_fr_en",
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
    reference=published("WMT-14 French to English BLEU, 1542M"),
    generation=TRANSLATION,
)
