"""Children's Book Test, named entities: which of ten words fills the gap in the 21st sentence.

See cbt_cn for the protocol.
"""

from modules.evaluation.fillings import cbt
from modules.paper_gpt2 import table_3

TASK = cbt("cbt_ne", "NE", paper="GPT-2 section 3.2, Table 3", reference=table_3("CBT-NE accuracy"))
