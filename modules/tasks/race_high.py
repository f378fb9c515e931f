"""RACE, high school alone, for training and test (GPT-1, Table 3): see race."""

from modules.tasks.race import race

TASK = race(
    "race_high",
    "high",
    reference={"GPT-1": 57.4},
    note="trained on high school alone; the paper may have trained on all of RACE",
)
