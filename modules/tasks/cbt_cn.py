"""Children's Book Test, common nouns: which of ten words fills the gap in the 21st sentence.

GPT-2, section 3.2: score a candidate by the probability of it and the rest of the sentence, given
everything before; no length normalisation. De-tokenised, and as it is. The paper reports the
validation split, because a book of the test split is in WebText.
"""

from modules.evaluation.fillings import cbt
from modules.paper_gpt2 import table_3

TASK = cbt("cbt_cn", "CN", paper="GPT-2 section 3.2, Table 3", reference=table_3("CBT-CN accuracy"))
