"""A whole evaluation of one LAMBADA passage: what start-up costs."""

import sys
import tempfile
from pathlib import Path

from modules import tasks
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.zero_shot import evaluate_all

if __name__ == "__main__":
    checkpoint, data = map(Path, sys.argv[1:])
    one = ZeroShotConfig(limit=1, bootstrap_samples=1, convention="harness")
    with tempfile.TemporaryDirectory() as out:
        evaluate_all(checkpoint, [tasks.get("lambada_like")], data, Path(out), one)
