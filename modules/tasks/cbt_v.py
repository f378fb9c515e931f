"""Children's Book Test, verbs: which of ten words fills the gap in the 21st sentence.

See cbt_cn for the protocol. The paper reports common nouns and named entities only.
"""

from modules.evaluation.fillings import cbt

TASK = cbt("cbt_v", "V", paper="GPT-2 section 3.2")
