"""Social IQa: three answers to a question about what people feel, want and do.

Multiple choice as GPT-1 does it (section 3.3): one sequence per answer, softmax over their scores.
Shaped like RACE (document, question, answers). Without fine-tuning the answer with the highest
mean token log-probability is taken (GPT-1, section 5, for RACE).
"""

from modules.evaluation.metrics import accuracy
from modules.task import SPLITS, Task, multiple_choice

TASK = Task(
    name="social_iqa",
    format="multiple_choice",
    version=1,
    source="finetune/social_iqa",
    columns=("document", "question", "answers", "label"),
    lists=("answers",),
    may_be_empty=("question",),
    splits=SPLITS,
    items=multiple_choice,
    metrics={"accuracy": accuracy},
    like="ehovy/race all",
    paper="GPT-1 section 3.3, Figure 1; Table 3",
    reference={"GPT-1 on RACE": 59.0},
)
