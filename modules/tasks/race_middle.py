"""RACE, middle school alone, for training and test (GPT-1, Table 3): see race."""

from modules.tasks.race import race

TASK = race(
    "race_middle",
    "middle",
    reference={"GPT-1": 62.9},
    note="trained on middle school alone; the paper may have trained on all of RACE",
)
