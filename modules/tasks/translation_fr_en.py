"""Translation, French to English: as translation_en_fr, with the pairs the other way round."""

from modules.evaluation.metrics import bleu
from modules.task import Prompt, Row, Task
from modules.tasks.translation_en_fr import SHOTS, prompts


def to_english(rows: list[Row]) -> list[Prompt]:
    """Ask for English."""
    return prompts(rows, "fr", "en")


TASK = Task(
    name="translation_fr_en",
    format="generation",
    version=1,
    source="zeroshot/translation_en_fr",
    columns=("use", "en", "fr"),
    items=to_english,
    metrics={"bleu": bleu},
    like="wmt/wmt14 fr-en",
    paper="GPT-2 section 3.7",
    reference={"1542M, BLEU": 11.5},
    generation={
        "max_new_tokens": 80,
        "temperature": 0.0,
        "first_sentences": 1,
        "stop_at_line_end": True,
    },
    notes={"shots": SHOTS},
)
