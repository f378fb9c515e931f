"""WMT-14 translation, French to English: as wmt14_en_fr, with the pairs the other way round."""

from modules.tasks.wmt14_en_fr import wmt14

TASK = wmt14("wmt14_fr_en", "fr", "en", "WMT-14 French to English BLEU, 1542M")
