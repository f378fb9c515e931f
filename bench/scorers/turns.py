"""What both sides do: read a line of items, score them, answer with seconds and scores."""

import json
import sys
import time
from collections.abc import Callable

from bench.trainers import answer


def take_turns(score: Callable[[str, list], list]) -> None:
    """Say when the model is there, then score what each line holds."""
    answer(ready=True, cpu=time.process_time())
    for line in sys.stdin:
        task = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        scores = score(task["kind"], task["groups"])
        answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, scores=scores)
