"""Story Cloze, 2016: which of two sentences ends a story of four? (GPT-1, Table 3.)

The only task of the authors' release. It trains on 1,497 of the 1,871 validation stories, chooses
the epoch on the other 374, drawn by its seed, and tests on the 1,871 test stories. The story is the
document, there is no question (gpt1.md 4.6, 6).
"""

from modules.evaluation.metrics import accuracy
from modules.rows import Row
from modules.task import Example, Task, row_id

SEED = 3535999445  # the release's datasets.py
STORIES, HELD_OUT = 1871, 374  # the same; another number of stories is cut in proportion
SENTENCES = tuple(f"input_sentence_{i}" for i in (1, 2, 3, 4))
ENDINGS = ("sentence_quiz1", "sentence_quiz2")


def endings(rows: list[Row]) -> list[Example]:
    """Make rows into one sequence per ending: S story D ending E."""
    return [
        Example(
            row_id(row, i),
            tuple((" ".join(row[c] for c in SENTENCES), row[ending]) for ending in ENDINGS),
            row["label"],
        )
        for i, row in enumerate(rows)
    ]


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the release's training and held-out stories, as scikit-learn draws them."""
    from sklearn.model_selection import train_test_split

    n = max(1, len(rows) * HELD_OUT // STORIES)
    train, held_out = train_test_split(rows, test_size=n, random_state=SEED)
    return train, held_out


TASK = Task(
    name="story_cloze",
    format="multiple_choice",
    version=1,
    hub="LSDSem/story_cloze 2016",
    by_hand="the hub has no files of it, its authors give them out on request (ROCStories, "
    "University of Rochester): put the spring 2016 CSV files there as validation.csv "
    "(cloze_test_ALL_val) and test.csv (cloze_test_ALL_test)",
    also={
        "InputStoryid": "story_id",
        **{f"InputSentence{i}": f"input_sentence_{i}" for i in (1, 2, 3, 4)},
        **{f"RandomFifthSentenceQuiz{i}": f"sentence_quiz{i}" for i in (1, 2)},
        "AnswerRightEnding": "answer_right_ending",
    },
    key="story_id",
    columns=(*SENTENCES, *ENDINGS, "answer_right_ending"),
    label="answer_right_ending",
    labels=("first", "second"),
    label_from=1,
    splits={"train": "validation", "val": "validation", "test": "test"},
    pick={"train": lambda rows: split(rows)[0], "val": lambda rows: split(rows)[1]},
    items=endings,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 3",
    reference={"GPT-1": 86.5, "GPT-1, median of ten runs of its code": 85.8},
)
