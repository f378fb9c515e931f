"""What both trainers of bench/finetune.py share: the rows, the clock, and waiting for a turn."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.trainers import answer


def rows_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows: {"sequences": token ids of each sequence, "label": index}."""
    lines = (Path(settings["folder"]) / "rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Turns:
    """Asked after each step; waits for the next turn when one is over."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.clock: Callable[[], float] = time.perf_counter
        if settings["cpu_time"]:
            self.clock = time.process_time
        self.left, self.begin = int(sys.stdin.readline()), self.clock()

    def __call__(self) -> bool:
        """Return True at the end of the input."""
        self.left -= 1
        if self.left:
            return False
        answer(seconds=self.clock() - self.begin)
        line = sys.stdin.readline()
        self.left, self.begin = int(line or 0), self.clock()
        return not line
